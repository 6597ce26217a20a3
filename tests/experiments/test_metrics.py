"""The log: one step late, cut where a run resumes, by group of parameters, on a disk and at a URL."""

import json
import struct
import sys
import types
from pathlib import Path

import fsspec
import jax
import jax.numpy as jnp
import pytest
from etils import epath
from fsspec.implementations.memory import MemoryFileSystem
from tensorboardX.proto.event_pb2 import Event, SessionLog
from tensorboardX.record_writer import RecordWriter

from experiments.training.groups import GROUPS, group_of
from experiments.training.metrics import MetricsLog, Work
from experiments.training.optimizer import path_name
from experiments.training.step import StepMetrics, split_model
from experiments.training.step_clock import StepClock
from experiments.training.writers import RecordsError, open_writers, read_records
from tests.experiments.tiny_run import tiny_config


def open_log(folder, config, start_step=0, **options):
    folder = epath.Path(folder)
    records = read_records(folder / "metrics.jsonl", start_step)
    work = Work(tokens=64, tokens_per_byte=0.5, devices=4, **options)
    return MetricsLog(
        records,
        open_writers(folder, config, start_step, records),
        name="mac",
        steps=10,
        work=work,
        log_every=2,
        learning_rate=lambda step: 0.1 * step,
    )


def metrics(loss, bad=False):
    norms = jnp.arange(len(GROUPS), dtype=jnp.float32)
    one = jnp.asarray(1.0, jnp.float32)
    return StepMetrics(jnp.asarray(loss, jnp.float32), one, norms, 2 * norms, jnp.array(bad), one)


def read(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def test_writes_one_step_late_and_in_bits_per_byte(tmp_path, capsys):
    log = open_log(tmp_path, tiny_config(tmp_path), flops_per_token=10.0, peak=1e3)
    assert log.push(1, metrics(2.0)) == []
    assert log.records == []
    ((step, written),) = log.push(2, metrics(1.0))
    assert (step, written.loss) == (1, 2.0)
    log.flush()
    log.close()
    records = read(tmp_path)
    assert [(r["step"], r["loss"]) for r in records] == [(1, 2.0), (2, 1.0)]
    assert records[1]["bpb"] == pytest.approx(1.0 / 0.6931471805599453 * 0.5)
    assert records[1]["update_norm/memory"] == 2 * records[1]["grad_norm/memory"] == 4
    speed = records[1]["tokens_per_second"]
    assert records[1]["tokens_per_second_per_device"] == pytest.approx(speed / 4, abs=0.06)
    assert records[1]["mfu"] == pytest.approx(speed * 10 / 4e3, rel=1e-3)
    assert records[1].keys() >= set(MetricsLog.CLOCKED) - {"device_memory_bytes"}  # a CPU has none
    line = capsys.readouterr().out.splitlines()[-1]
    for part in ("step 2/10", "loss 1.0000", "bpb 0.7213", "tokens/s", "eta", "RAM "):
        assert part in line


def test_a_part_of_the_held_out_text_and_all_of_it_have_two_names(tmp_path, capsys):
    log = open_log(tmp_path, tiny_config(tmp_path))
    log.validation(2, 3.5, batches=4)
    log.validation(10, 3.25)
    log.close()
    assert read(tmp_path) == [
        {"step": 2, "valid_batches_bpb": 3.5},
        {"step": 10, "valid_bpb": 3.25},
    ]
    part, whole = capsys.readouterr().out.splitlines()
    assert part.endswith("3.5000 bits per byte of the first 4 batches")
    assert whole.endswith("3.2500 bits per byte of all held-out text")


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b'{"step": 2, "lo', "JSON"),
        (b'{"step": "\xff"}', "utf-8"),
        (b"[2]", ""),
        (b'{"loss": 1}', "step"),
    ],
)
def test_a_damaged_line_is_named_and_an_unfinished_last_one_is_left(tmp_path, line, reason):
    path = epath.Path(tmp_path / "metrics.jsonl")
    whole = b'{"step": 1, "loss": 2.0}\n'
    path.write_bytes(whole + line)
    assert read_records(path, 9) == [{"step": 1, "loss": 2.0}]
    path.write_bytes(whole + line + b"\n" + whole)
    with pytest.raises(RecordsError, match=rf"metrics\.jsonl, line 2: no record .*{reason}"):
        read_records(path, 9)


def test_a_full_disk_names_the_file_and_closes_all(tmp_path):
    """/dev/full takes nothing, as a full disk does; nothing is left that fails again when it is collected."""
    for name in ("_file", "_records"):
        log = open_log(tmp_path, tiny_config(tmp_path))
        metrics_file, board = log._writers
        if name == "_file":
            metrics_file._file.close()
            metrics_file._file = Path("/dev/full").open("a")  # noqa: SIM115
        else:
            board._records.close()
            board._records = RecordWriter("/dev/full")
        log.record({"step": 1, "loss": 2.0})
        where = "metrics.jsonl" if name == "_file" else "events.out.tfevents"
        for action in (log.flush, log.close):
            with pytest.raises(OSError, match=rf"No space left on device: .*{where}"):
                action()
        assert metrics_file._file.closed
        assert board._records._writer.closed


def test_tensorboard_gets_the_scalars_and_where_a_run_goes_on(tmp_path):
    log = open_log(tmp_path, tiny_config(tmp_path), start_step=4)
    log.record({"step": 5, "loss": 2.0, "grad_norm/memory": 0.5})
    log.close()
    (path,) = (tmp_path / "tensorboard").iterdir()
    content, events = path.read_bytes(), []
    while content:
        (size,) = struct.unpack("<Q", content[:8])
        events.append(Event.FromString(content[12 : 12 + size]))
        content = content[16 + size :]
    assert events[0].file_version == "brain.Event:2"
    assert (events[1].step, events[1].session_log.status) == (5, SessionLog.START)
    scalars = [
        (e.step, e.summary.value[0].tag, e.summary.value[0].simple_value) for e in events[2:]
    ]
    assert scalars == [(5, "loss", 2.0), (5, "grad_norm/memory", 0.5)]


def test_resuming_drops_what_is_done_again(tmp_path):
    config = tiny_config(tmp_path)
    log = open_log(tmp_path, config)
    for step in (1, 2, 3):
        log.push(step, metrics(1.0))
    log.flush()
    log.close()
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 4, "lo')  # the process was killed here
    log = open_log(tmp_path, config, start_step=2)
    log.push(3, metrics(5.0))
    log.flush()
    log.close()
    assert [(r["step"], r["loss"]) for r in read(tmp_path)] == [(1, 1.0), (2, 1.0), (3, 5.0)]


def test_the_learning_rate_is_that_of_the_steps_that_were_taken(tmp_path):
    config = tiny_config(tmp_path)
    log = open_log(tmp_path, config)
    for step in (1, 2, 3):
        log.push(step, metrics(1.0, bad=step == 2))
    log.flush()
    log.close()
    rates = [round(r["learning_rate"], 3) for r in read(tmp_path)]
    assert rates == [0.0, 0.1, 0.1]
    assert [r.get("skipped") for r in read(tmp_path)] == [None, 1, None]
    log = open_log(tmp_path, config, start_step=3)
    log.push(4, metrics(1.0))
    log.flush()
    assert log.records[-1]["learning_rate"] == pytest.approx(0.2)


def test_at_a_url_the_files_are_written_whole_at_a_flush(tmp_path, monkeypatch):
    memory = MemoryFileSystem()
    monkeypatch.setattr(fsspec, "filesystem", lambda *_, **__: memory)
    folder, config = epath.Path("gs://metrics/run/mac"), tiny_config(tmp_path)
    folder.mkdir(parents=True)
    for start_step in (0, 2):
        log = open_log(folder, config, start_step=start_step)
        for step in (1, 2):
            log.push(start_step + step, metrics(1.0))
        log.flush()
        assert [r["step"] for r in read(folder)] == list(range(1, start_step + 3))
        log.close()
    events = list((folder / "tensorboard").iterdir())
    assert events
    assert all(path.stat().length > 0 for path in events)


def test_weights_and_biases_gets_the_same_records(tmp_path, monkeypatch):
    seen = {"log": []}

    def init(**options):
        seen["options"] = options
        return types.SimpleNamespace(
            log=lambda values, step: seen["log"].append((step, values)),
            finish=lambda: seen.update(finished=True),
        )

    with pytest.raises(ValueError, match=r"config.wandb_project='p': needs the package wandb"):
        tiny_config(tmp_path, wandb_project="p")
    module = types.ModuleType("wandb")
    module.init = init
    module.__spec__ = types.SimpleNamespace()
    monkeypatch.setitem(sys.modules, "wandb", module)
    log = open_log(tmp_path, tiny_config(tmp_path, wandb_project="p"))
    log.push(1, metrics(1.0))
    log.flush()
    log.close()
    assert seen["options"]["project"] == "p"
    assert seen["options"]["name"].endswith(f"/{tmp_path.name}")
    assert seen["options"]["config"]["batch_size"] == 4
    ((step, values),) = seen["log"]
    assert (step, values["loss"]) == (1, 1.0)
    assert seen["finished"]


def test_step_times_and_goodput_leave_out_what_is_no_step():
    moments = iter([0.0, 10.0, 11.0, 13.0, 20.0, 21.0, 25.0, 26.0])
    clock = StepClock(lambda: next(moments))
    clock.step()  # 10: compiled until here
    clock.step()  # 11
    clock.step()  # 13
    clock.restart()  # 20: a validation
    clock.step()  # 21
    times = clock.report()  # 25
    assert times["step_seconds_mean"] == pytest.approx(4 / 3)
    assert times["step_seconds_p50"] == 1
    assert times["step_seconds_p99"] == pytest.approx(1.98)
    assert times["goodput"] == pytest.approx(4 / 25)
    assert clock.report().keys() == {"goodput"}


@pytest.mark.parametrize("variant", ["mac", "mag", "mal", "lmm", "transformer"])
def test_every_parameter_has_its_group(variant, tmp_path):
    _, shapes = split_model(tiny_config(tmp_path, model__variant=variant).model)
    names = [path_name(path) for path, _ in jax.tree_util.tree_flatten_with_path(shapes)[0]]
    groups = {name: group_of(name) for name in names}
    absent = {"lmm": {"attention"}, "transformer": {"memory"}}.get(variant, set())
    assert set(groups.values()) == set(GROUPS) - absent
    assert groups["embedding"] == groups["layers/mixer/persistent/tokens"] == "embedding"
    assert groups["norm/scale"] == "norms"
    if variant != "transformer":
        assert groups["layers/mixer/memory/initial_weights/0"] == "memory"
        assert groups["layers/mixer/memory/norm/scale"] == "norms"
