"""The log: one step late, cut where a run resumes, and it stops a run that diverged."""

import json

import jax.numpy as jnp
import pytest

from experiments.training.metrics import MetricsLog
from experiments.training.step import StepMetrics


def open_log(folder, start_step=0):
    return MetricsLog(
        folder,
        name="mac",
        start_step=start_step,
        steps=10,
        tokens_per_step=64,
        tokens_per_byte=0.5,
        log_every=2,
        learning_rate=lambda step: 0.1,
    )


def metrics(loss):
    return StepMetrics(jnp.asarray(loss, jnp.float32), jnp.asarray(1.0, jnp.float32))


def test_writes_one_step_late_and_in_bits_per_byte(tmp_path, capsys):
    log = open_log(tmp_path)
    log.push(1, metrics(2.0))
    assert log.records == []
    log.push(2, metrics(1.0))
    log.flush()
    log.close()
    records = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [(r["step"], r["loss"]) for r in records] == [(1, 2.0), (2, 1.0)]
    assert records[1]["bpb"] == pytest.approx(1.0 / 0.6931471805599453 * 0.5)
    line = capsys.readouterr().out.splitlines()[-1]
    for part in ("step 2/10", "loss 1.0000", "bpb 0.7213", "tokens/s", "eta", "memory"):
        assert part in line


def test_resuming_drops_what_is_done_again(tmp_path):
    log = open_log(tmp_path)
    for step in (1, 2, 3):
        log.push(step, metrics(1.0))
    log.flush()
    log.close()
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 4, "lo')  # the process was killed here
    log = open_log(tmp_path, start_step=2)
    log.push(3, metrics(5.0))
    log.flush()
    log.close()
    records = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [(r["step"], r["loss"]) for r in records] == [(1, 1.0), (2, 1.0), (3, 5.0)]


def test_loss_that_is_not_finite_stops_the_run(tmp_path):
    log = open_log(tmp_path)
    log.push(1, metrics(float("nan")))
    with pytest.raises(FloatingPointError, match="loss is nan at step 1"):
        log.flush()
