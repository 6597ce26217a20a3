"""Work that hangs ends the process, with the stacks of its threads; work that does not is left alone."""

import subprocess
import sys
import threading
import time

import pytest

from experiments import train as training
from experiments.training import watchdog
from experiments.training.preemption import PREEMPTED
from tests.experiments.tiny_run import tiny_config

PROGRAM = """
import threading
from experiments.training.watchdog import Watchdog

def collective_that_nobody_joins():
    threading.Event().wait()

dog = Watchdog(1)
with dog.watching("mac step 1", kind="step"):
    pass
with dog.watching("mac step 2", kind="step"):
    collective_that_nobody_joins()
"""


def test_a_hang_ends_the_process_and_says_where():
    process = subprocess.run(
        [sys.executable, "-c", PROGRAM], capture_output=True, text=True, timeout=60, check=False
    )
    assert process.returncode == PREEMPTED, process.stderr
    assert "error: mac step 2 did not end within 1 seconds (config.step_timeout)" in process.stderr
    assert "in collective_that_nobody_joins" in process.stderr


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
@pytest.mark.parametrize(
    ("seconds", "times", "ended"), [(0.5, 1, ["work"]), (0.5, 9, []), (0, 1, [])]
)
def test_only_what_takes_too_long_is_ended(seconds, times, ended, monkeypatch):
    seen, happened = [], threading.Event()

    def end(what, limit):
        seen.append(what)
        happened.set()
        raise SystemExit  # only of the thread

    monkeypatch.setattr(watchdog, "_end", end)
    dog = watchdog.Watchdog(seconds)
    with dog.watching("compiling", kind="step"):  # the first may take any time
        assert not happened.wait(0.7)
    for _ in range(7):
        with dog.watching("quick", kind="step"):
            assert not happened.wait(0.1)
    with dog.watching("work", kind="step", times=times):
        assert happened.wait(0.9) == bool(ended)
    assert seen == ended
    dog.close()


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_run_may_compile_as_long_as_it_takes_but_no_step_may(tmp_path, monkeypatch):
    seen = []

    def end(what, limit):
        seen.append(what)
        raise SystemExit  # only of the thread

    make = training.make_train_step

    def make_slow_step(*args):
        step, calls = make(*args), 0

        def slow(*inputs):
            nonlocal calls
            calls += 1
            time.sleep({1: 1.6, 4: 1.6}.get(calls, 0))
            return step(*inputs)

        return slow

    monkeypatch.setattr(watchdog, "_end", end)
    monkeypatch.setattr(training, "make_train_step", make_slow_step)
    config = tiny_config(
        tmp_path, steps=5, step_timeout=1, eval_every=0, model__variant="transformer"
    )
    run = training.prepare(config, tmp_path / "run")
    model = run.models["transformer"]
    training.train(
        run.config, model, run.text, run.tokenizer, run.folder / "transformer", run.layout
    )
    assert seen == ["transformer step 4"]
