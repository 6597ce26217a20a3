"""Trains a Titans language model on text, and a Transformer++ of equal parameters beside it.

    python -m experiments.train --config=experiments/configs/tiny.py --workdir=DIR --config.model.variant=mag

The same command again continues from the last checkpoint, bit for bit. Read `execute` for the whole and `train` for
one model. Exit codes: 0 done; 75 asked to stop (SIGTERM), or another process was lost or hangs: start it again; 1 an
error that the log names; 2 a flag that does not exist.
"""

import contextlib
import dataclasses
import itertools
import math
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
from absl import flags, logging
from etils import epath
from flax import nnx
from jaxtyping import PyTree
from ml_collections import config_flags

from experiments import command
from experiments.compile_report.running import TooLargeError, compile_and_report
from experiments.training import finetune, guard, lost, parameters, report, utilisation
from experiments.training.carry import carried_rows, start
from experiments.training.checkpoints import CheckpointError, Checkpoints
from experiments.training.config import TrainConfig, train_config
from experiments.training.devices import split_cpu
from experiments.training.mesh import Layout, check_layout, make_layout
from experiments.training.metrics import MetricsLog, Work
from experiments.training.optimizer import learning_rate_schedule, make_optimizer
from experiments.training.preemption import Preemption, exit_when_asked, second_interrupt_ends
from experiments.training.probe import as_record, make_probe
from experiments.training.processes import is_first, join_processes, say
from experiments.training.profiling import Profile
from experiments.training.step import (
    evaluate,
    init_params,
    make_eval_step,
    make_train_step,
    place,
    split_model,
)
from experiments.training.text import Text, load_text, train_batches, valid_batches
from experiments.training.watchdog import Watchdog
from experiments.training.workdir import open_workdir, work_alone
from experiments.training.writers import RecordsError, open_writers, read_records
from titans_jax import TitansConfig
from titans_jax.data import Tokenizer, load_tokenizer, lzma_bits_per_byte, order0_bits_per_byte
from titans_jax.inference import Sampling, continuation_text, generate, prefill


class Trained(NamedTuple):
    """A trained model."""

    params: PyTree
    valid_bpb: float  # over all of the validation text
    records: list[dict[str, Any]]  # what metrics.jsonl holds


def train(
    config: TrainConfig,
    model: TitansConfig,
    text: Text,
    tokenizer: Tokenizer,
    folder: epath.Path,
    layout: Layout,
) -> Trained:
    """Trains one model to config.steps, from its last checkpoint if there is one.

    Args:
      config: the run's.
      model: which model; the run's own or its baseline.
      text: to train on and to validate with.
      tokenizer: of the text; checkpoints remember which.
      folder: for checkpoints, metrics and the parameter table.
      layout: where everything lies.

    Raises:
      ValueError: the checkpoints are of another tokenizer or text, or all are damaged.
      BadStepError: a loss or gradient is not finite, or a spike, and config.on_bad_step does not skip it.
      SystemExit: asked to stop; what there was to save is saved.
    """
    # Model, optimizer, data.
    folder.mkdir(parents=True, exist_ok=True)
    graphdef, shapes = split_model(model)
    optimizer = guard.guarded(make_optimizer(config.optimizer, config.steps), config.spike_factor)
    started = start(graphdef, optimizer, carried_rows(config))
    placed = place(layout.mesh, shapes, started)
    if is_first():
        table = parameters.table(shapes, placed.params)
        (folder / "parameters.txt").write_text(table, encoding="utf-8")
    params = init_params(model, config.seed, placed.params)
    opt_state = jax.jit(started, out_shardings=placed.opt_state)(params)
    batches = train_batches(config, text, layout.reads())
    train_step = compile_and_report(dataclasses.replace(config, model=model), folder)
    if train_step is None:
        train_step = layout.in_turn(
            make_train_step(graphdef, optimizer, config.accumulation, placed)
        )
    eval_step = layout.in_turn(make_eval_step(graphdef))
    probe = None
    if config.probe_every and model.has_memory:
        probe = layout.in_turn(make_probe(graphdef, layout.replicated))
    work = _work(config, graphdef, shapes, text, layout)

    # Kernels find the mesh in their context. The stack is closed however the run ends: a checkpoint being
    # written is finished.
    with jax.set_mesh(layout.mesh), contextlib.ExitStack() as stack:
        preemption = stack.enter_context(Preemption())
        # Where the last run stopped.
        checkpoints = Checkpoints(
            folder / "checkpoints",
            every=config.checkpoint_every,
            keep=config.keep_checkpoints,
            keep_every=config.keep_every,
        )
        at_end(stack, checkpoints.close)
        identity = {"tokenizer": tokenizer.fingerprint(), "text": text.fingerprint}
        start_step, params, opt_state = checkpoints.restore(params, opt_state, batches, identity)
        if start_step:
            say(f"{model.variant}: continuing after step {start_step}")
        elif config.restore_from:
            known = {"tokenizer": identity["tokenizer"]}
            params = finetune.start_from(finetune.match(config.restore_from, params, known), params)
        records = read_records(folder / "metrics.jsonl", start_step) if is_first() else []
        log = MetricsLog(
            records,
            open_writers(folder, config, start_step, records) if is_first() else (),
            name=model.variant,
            steps=config.steps,
            work=work,
            log_every=config.log_every,
            learning_rate=learning_rate_schedule(config.optimizer, config.steps),
        )
        at_end(stack, log.close)
        bad_steps = guard.BadSteps(folder, model.variant, skip=config.on_bad_step == "skip")
        watchdog = Watchdog(config.step_timeout)
        stack.callback(watchdog.close)
        own = model.variant == config.model.variant
        profile = Profile(folder.parent / "profile", config.profile_steps if own else "")
        stack.callback(profile.close)

        # The loop. Metrics are one step late; what is pending is written before a validation or a checkpoint.
        if preemption.reached(start_step):
            preemption.leave("no step was done since the start")
        for step in range(start_step + 1, config.steps + 1):
            with watchdog.watching(f"{model.variant}: batch {step}", kind="batch"):
                mine = next(batches)
                bad_steps.keep(step, mine)
                batch = layout.share(mine)
            if probe is not None and step % config.probe_every == 0:
                for written in log.flush():  # in order
                    bad_steps.check(*written)
                log.record(as_record(step, probe(params, batch)))
                log.restart_clock()
            if profile.before(step, params):
                log.restart_clock()
            with watchdog.watching(f"{model.variant} step {step}", kind="step"):
                params, opt_state, metrics = train_step(params, opt_state, batch)
                for written in log.push(step, metrics):
                    bad_steps.check(*written)
            if profile.after(step, params):
                log.restart_clock()
            stopping, last = preemption.reached(step), step == config.steps
            evaluating = config.eval_every and step % config.eval_every == 0 and not last
            saving = last or stopping or checkpoints.due(step)
            if evaluating or saving:
                with watchdog.watching(f"{model.variant} step {step}", kind="step"):
                    for written in log.flush():  # a bad step stops the run here, before it is saved
                        bad_steps.check(*written)
            if evaluating and not stopping:
                some = itertools.islice(
                    valid_batches(config, text, layout.reads()), config.eval_batches
                )
                with watchdog.watching("validation", times=config.eval_batches):
                    nats, tokens = evaluate(eval_step, params, map(layout.share, some))
                bits_per_byte = nats / tokens / math.log(2) * work.tokens_per_byte
                log.validation(step, bits_per_byte, batches=config.eval_batches)
            if saving:
                checkpoints.save(step, params, opt_state, batches, identity)
                log.restart_clock()
            if stopping:
                checkpoints.wait()
                preemption.leave(f"{model.variant}: step {step} is saved")
            if step == start_step + 1:
                lost.restart_after_abort()

        # The score: every validation token once, per byte of the text they spell. All steps are saved by now.
        checkpoints.wait()
        scored = preemption.unless_reached(
            config.steps, valid_batches(config, text, layout.reads())
        )
        nats, _ = evaluate(eval_step, params, map(layout.share, scored))
        valid_bpb = nats / math.log(2) / text.valid.target_bytes
        # A finished run that is started again has it already.
        if not log.records or log.records[-1].get("valid_bpb") != valid_bpb:
            log.validation(config.steps, valid_bpb)
        return Trained(params, valid_bpb, log.records)


def at_end(stack: contextlib.ExitStack, close: Callable[[], None]) -> None:
    """Closes something at a stack's end; if that fails after an error, the first error is the one that is told."""

    def leave(kind: object, error: BaseException | None, trace: object) -> None:
        try:
            close()
        except (OSError, CheckpointError):
            if error is None or isinstance(error, SystemExit):
                raise

    stack.push(leave)


def _work(
    config: TrainConfig, graphdef: nnx.GraphDef, shapes: PyTree, text: Text, layout: Layout
) -> Work:
    """What a step amounts to; the matmuls are counted only where that gives an MFU."""
    length = config.data.sequence_length
    peak = utilisation.peak_flops(layout.mesh.devices.flat[0].device_kind)
    flops = 0.0
    if peak:
        reset = config.data.packing == "documents"
        flops = utilisation.flops_per_token(graphdef, shapes, config.batch_size, length, reset)
    return Work(
        tokens=config.batch_size * length,
        tokens_per_byte=text.train.target_tokens / text.train.target_bytes,
        devices=layout.mesh.size,
        flops_per_token=flops,
        peak=peak,
    )


class Run(NamedTuple):
    """A run whose every input has been read and checked; nothing is compiled yet."""

    config: TrainConfig
    folder: epath.Path
    tokenizer: Tokenizer
    text: Text
    models: dict[str, TitansConfig]  # by variant: the config's own, then its baseline
    layout: Layout


def prepare(config: TrainConfig, folder: epath.PathLike) -> Run:
    """Reads what a run needs and opens its workdir.

    Args:
      config: see TrainConfig; the vocabulary is taken from the tokenizer.
      folder: the workdir.

    Raises:
      ValueError, FileNotFoundError: see `load_tokenizer`, `load_text`, `make_pipeline`, `check_layout`,
        `transformer_like`, `open_workdir`.
    """
    folder = epath.Path(folder)
    tokenizer = load_tokenizer(config.data.tokenizer)
    model = dataclasses.replace(config.model, vocab_size=tokenizer.vocab_size)
    config = dataclasses.replace(config, model=model)
    layout = make_layout(config.mesh)
    check_layout(config, layout.mesh)
    text = load_text(config, tokenizer)
    train_batches(config, text, layout.reads())  # both only to say what does not fit
    valid_batches(config, text, layout.reads())
    models: dict[str, TitansConfig] = {model.variant: model}
    if config.baseline and model.variant != "transformer":
        models["transformer"] = parameters.transformer_like(model)
    if config.restore_from and not (folder / "config.json").exists():  # a new run
        shapes, known = split_model(model)[1], {"tokenizer": tokenizer.fingerprint()}
        finetune.match(config.restore_from, shapes, known)  # only to say what does not fit
    open_workdir(folder, config)
    return Run(config, folder, tokenizer, text, models, layout)


def execute(run: Run) -> dict[str, float]:
    """Trains the model and its baseline, and reports.

    Returns:
      Name -> validation bits per byte, of the models and of the yardsticks.
    """
    started = time.perf_counter()
    config, text = run.config, run.text
    source = config.data.path
    if source == "stdlib":
        source = "the Python standard library's own sources (--config.data.path=DIR_OR_FILE for any other text)"
    say(f"text: {source}")
    say(f"{text.train.target_bytes:,} bytes to train on, {text.valid.target_bytes:,} held out")
    counts = {name: parameters.count(split_model(model)[1]) for name, model in run.models.items()}
    for name, number in counts.items():
        say(f"{name}: {number:,} parameters ({run.folder}/{name}/parameters.txt)")

    trained = {
        name: train(config, model, text, run.tokenizer, run.folder / name, run.layout)
        for name, model in run.models.items()
    }

    own = config.model.variant
    scores = {name: result.valid_bpb for name, result in trained.items()}
    scores["order-0 entropy"] = order0_bits_per_byte(text.valid_bytes)
    scores["lzma"] = lzma_bits_per_byte(text.valid_bytes)
    records = {name: result.records for name, result in trained.items()}
    whole = run.layout.gather(trained[own].params)  # every process takes part
    if not is_first():
        return scores
    sample = _sample(config, whole, run.tokenizer)
    report.write_report(run.folder, scores, counts, records, sample)
    say(
        f"valid_bpb={scores[own]:.4f} order0_bpb={scores['order-0 entropy']:.4f} "
        f"lzma_bpb={scores['lzma']:.4f} "
        + (f"transformer_bpb={scores['transformer']:.4f} " if "transformer" in trained else "")
        + f"seconds={time.perf_counter() - started:.0f}"
    )
    return scores


def _sample(config: TrainConfig, params: PyTree, tokenizer: Tokenizer) -> str:
    graphdef, _ = split_model(config.model)
    model, sample = nnx.merge(graphdef, params), config.sample
    prompt = [tokenizer.start_token, *tokenizer.encode(sample.prompt.encode()).tolist()]
    stream = prefill(model, prompt, max_length=len(prompt) + sample.length)
    sampling = Sampling(temperature=sample.temperature, top_k=sample.top_k)
    ids = generate(model, stream, sample.length, sampling, seed=config.seed).tokens[0].tolist()
    return sample.prompt + continuation_text(tokenizer, prompt[1:], ids)


def define_flags() -> None:
    """The program's flags."""
    config_flags.DEFINE_config_file("config", None, "a file of experiments/configs/")
    flags.mark_flag_as_required("config")
    flags.DEFINE_string(
        "workdir", None, "the folder of the run; created, or continued", required=True
    )


def main() -> None:
    """Reads the flags and runs; what a user can get wrong ends in one message, not a traceback."""
    logging.set_verbosity(logging.FATAL)  # Orbax logs every file it touches; what matters is raised
    exit_when_asked()
    with contextlib.ExitStack() as stack:
        stack.enter_context(second_interrupt_ends())
        try:
            config = train_config(flags.FLAGS.config)
            split_cpu(config.cpu_devices)
            join_processes(config)
            folder = epath.Path(flags.FLAGS.workdir).expanduser()
            stack.enter_context(work_alone(folder))
            prepared = prepare(config, folder)
        except (ValueError, OSError, ImportError) as error:
            raise SystemExit(f"error: {error}") from error
        _execute_or_say(prepared)


def _execute_or_say(prepared: Run) -> None:
    try:
        execute(prepared)
    except (guard.BadStepError, TooLargeError) as error:  # all processes see it
        raise SystemExit(f"error: {error}") from error
    except Exception as error:
        if jax.process_count() > 1:
            lost.outlive(prepared.config.process_timeout)
        if isinstance(error, CheckpointError | RecordsError | OSError):
            raise SystemExit(f"error: {error}") from error
        raise


if __name__ == "__main__":
    command.run(main, define_flags, config=TrainConfig, one_line=False)
