"""A training that gets SIGTERM saves, exits with 75, and ends as one that was left alone."""

import os
import signal
import time

import pytest

from experiments.training.preemption import PREEMPTED, Preemption, exit_when_asked
from tests.experiments.killable_program import assert_same_checkpoint, finished, start
from tests.experiments.tiny_run import tiny_config


@pytest.fixture(autouse=True)
def _signal_handler_returns():
    before = signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, before)


def test_before_there_is_anything_to_save_the_signal_exits_at_once():
    exit_when_asked()
    with pytest.raises(SystemExit) as stop:
        os.kill(os.getpid(), signal.SIGTERM)
    assert stop.value.code == PREEMPTED == 75


def test_inside_the_context_it_only_asks():
    exit_when_asked()
    before = signal.getsignal(signal.SIGTERM)
    with Preemption() as preemption:
        assert not preemption.reached(1)
        os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGTERM)
        assert preemption.reached(2)
        with pytest.raises(SystemExit) as stop:
            list(preemption.unless_reached(2, [1]))
    assert stop.value.code == PREEMPTED
    assert signal.getsignal(signal.SIGTERM) is before


@pytest.mark.slow
def test_three_signals_change_nothing(tmp_path):
    config = tiny_config(
        tmp_path,
        steps=300,
        checkpoint_every=300,
        log_every=1,
        eval_every=0,
        model__variant="transformer",
    )
    straight, broken, programs = (tmp_path / name for name in ("straight", "broken", "programs"))
    process, _ = start(config, straight, programs, tmp_path / "straight.out")
    process.join()
    assert process.exitcode == 0

    # In the first steps and in later ones; more signals, while it saves, do not disturb it.
    for life, after in enumerate(("step 1/", "step 20/", "step 44/")):
        output = tmp_path / f"{life}.out"
        process, ready = start(config, broken, programs, output)
        assert ready.recv()
        while process.is_alive() and after not in output.read_text():
            time.sleep(0.001)
        for _ in range(3):
            process.terminate()
            time.sleep(0.01)
        process.join()
        said = output.read_text()
        assert process.exitcode == PREEMPTED, said
        assert "the same command continues" in said
        step = finished(broken)
        assert step >= int(after[5:-1])
        assert step % 300  # not one that is due anyway
    process, _ = start(config, broken, programs, tmp_path / "last.out")
    process.join()
    assert process.exitcode == 0

    assert_same_checkpoint(straight, broken, 300)
