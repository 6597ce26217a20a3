"""One training of a language model: at one learning rate with one seed, judged, and kept (store.py).

    FOLDER/checkpoints/     of the training, which continues from the newest
    FOLDER/progress.jsonl   the loss curve, and the seconds so far

The learning rate is a number in the optimizer's state, so the trials of a sweep share one compiled step: AdamW's update
is proportional to it, decoupled weight decay included.
"""

import contextlib
import dataclasses
import functools
import json
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import grain
import jax
import numpy as np
import optax
from etils import epath
from flax import nnx

from experiments.comparison.config import SELECTION, StudyConfig, Task
from experiments.comparison.store import keep, plain
from experiments.training.checkpoints import Checkpoints
from experiments.training.config import OptimizerConfig
from experiments.training.optimizer import make_optimizer
from experiments.training.step import make_init, make_train_step, split_model
from titans_jax import TitansConfig
from titans_jax.matching import count_parameters

CHECKPOINTS = "checkpoints"
#: What may change between two starts of one trial.
_FREE = ("log_every", "checkpoint_every", "max_hours", "learning_rates", "seeds", "tolerance")


class Trial(NamedTuple):
    """One training.

    Attributes:
      name: of the model.
      model: its config.
      learning_rate: the peak.
      seed: of parameters and data order.
      study: what all trials share.
    """

    name: str
    model: TitansConfig
    learning_rate: float
    seed: int
    study: StudyConfig

    def folder(self, workdir: Path) -> Path:
        """The trial's folder."""
        return workdir / self.name / f"rate_{self.learning_rate:g}" / f"seed_{self.seed}"

    def describe(self, task: Task) -> dict[str, Any]:
        """All that decides the outcome, as JSON values."""
        shared = dataclasses.asdict(self.study)
        for name in _FREE:
            del shared[name]
        del shared["optimizer"]["learning_rate"]
        described = {
            "model": dataclasses.asdict(self.model),
            "learning_rate": self.learning_rate,
            "seed": self.seed,
            **shared,
            "task": task.describe(),
        }
        return plain(described)


def run_trial(trial: Trial, task: Task, workdir: Path) -> dict[str, Any] | None:
    """Trains and judges, from the last checkpoint if there is one; a finished trial's record is only read.

    Returns:
      The record (store.py), with "name", "parameters", "seconds", "curve" ([step, mean loss since the last point],
      ...), and "results", what the task says of the model. A training that met a loss that is not finite has "results"
      None. None: another process is at this trial.

    Raises:
      ValueError: the folder holds another trial, or checkpoints of another model.
    """
    folder = trial.folder(workdir)
    return keep(folder, trial.describe(task), lambda: _run(trial, task, folder))


def _run(trial: Trial, task: Task, folder: Path) -> dict[str, Any]:
    trained = _train(trial, task, folder)
    began = time.perf_counter()
    results = None if trained.params is None else _judge(trial, task, trained.params)
    return {
        "name": trial.name,
        "parameters": count_parameters(trial.model),
        "seconds": trained.seconds + time.perf_counter() - began,
        "curve": trained.curve,
        "results": results,
    }


class _Trained(NamedTuple):
    params: Any  # None: the training diverged
    curve: list[list[float]]
    seconds: float


class _Compiled(NamedTuple):
    init: Callable[[int], Any]
    optimizer: optax.GradientTransformation  # its rate is `opt_state[1].hyperparams["step_size"]`
    step: Any


@functools.cache
def _compiled(model: TitansConfig, optimizer: OptimizerConfig, steps: int) -> _Compiled:
    """What all trials of a model share; each part compiles at its first call."""
    unit = make_optimizer(dataclasses.replace(optimizer, learning_rate=1.0), steps)
    scaled = optax.chain(unit, optax.inject_hyperparams(optax.scale)(step_size=1.0))
    step = make_train_step(split_model(model)[0], scaled, accumulation=1)
    return _Compiled(make_init(model), scaled, step)


def forget_programs() -> None:
    """Lets go of everything compiled: each program holds memory mappings, of which a process has 65,530."""
    _compiled.cache_clear()
    jax.clear_caches()


def _train(trial: Trial, task: Task, folder: Path) -> _Trained:
    study = trial.study
    base = dataclasses.replace(study.optimizer, learning_rate=1.0)
    init, optimizer, step_function = _compiled(trial.model, base, study.steps)
    params = init(trial.seed)
    opt_state = optimizer.init(params)
    opt_state[1].hyperparams["step_size"] = jax.numpy.float32(trial.learning_rate)
    batches = iter(
        grain.MapDataset.range(study.steps)
        .map(functools.partial(task.batch, seed=trial.seed))
        .to_iter_dataset(grain.ReadOptions(num_threads=1, prefetch_buffer_size=4))
    )
    progress = folder / "progress.jsonl"
    with contextlib.ExitStack() as stack:
        checkpoints = Checkpoints(
            epath.Path(folder) / CHECKPOINTS, every=study.checkpoint_every, keep=2
        )
        stack.callback(checkpoints.close)
        identity = {"trial": trial.describe(task)}
        start, params, opt_state = checkpoints.restore(params, opt_state, batches, identity)
        points = _kept(progress, start)
        before, began = points[-1]["seconds"] if points else 0.0, time.perf_counter()
        pending: list[jax.Array] = []
        for step in range(start + 1, study.steps + 1):
            params, opt_state, metrics = step_function(params, opt_state, next(batches))
            pending.append(metrics.loss)
            last = step == study.steps
            saving = last or checkpoints.due(step)
            if not saving and step % study.log_every:
                continue
            loss = float(np.mean(jax.device_get(pending)))
            pending = []
            seconds = before + time.perf_counter() - began
            points.append({"step": step, "loss": loss, "seconds": seconds})
            _write_lines(progress, points)
            if not math.isfinite(loss):
                return _Trained(None, _curve(points), seconds)
            if saving:
                checkpoints.save(step, params, opt_state, batches, identity)
    return _Trained(params, _curve(points), points[-1]["seconds"])


def _judge(trial: Trial, task: Task, params: Any) -> dict[str, Any]:
    results = task.evaluate(nnx.merge(split_model(trial.model)[0], params))
    if SELECTION not in results:
        raise ValueError(f"the task's judgement must have an entry {SELECTION!r}, got {[*results]}")
    return results


def _curve(points: list[dict[str, float]]) -> list[list[float]]:
    return [[point["step"], point["loss"]] for point in points if math.isfinite(point["loss"])]


def _kept(path: Path, start: int) -> list[dict[str, float]]:
    """The points up to a step; later ones are of steps that will be done again."""
    if not path.exists():
        return []
    points = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    return [point for point in points if point["step"] <= start]


def _write_lines(path: Path, points: list[dict[str, float]]) -> None:
    new = path.with_name(path.name + ".new")
    new.write_text("".join(json.dumps(point) + "\n" for point in points), encoding="utf-8")
    new.replace(path)
