"""A training that gets SIGTERM saves, exits with 75, and ends as one that was left alone."""

import os
import signal
import subprocess
import sys
import time

import pytest

from experiments.training.preemption import INTERRUPTED, PREEMPTED, Preemption, exit_when_asked
from tests.experiments.killable_program import assert_same_checkpoint, finished, start
from tests.experiments.tiny_run import tiny_config

SIGNALS = (signal.SIGTERM, signal.SIGINT)


@pytest.fixture(autouse=True)
def _signal_handlers_return():
    before = {number: signal.getsignal(number) for number in SIGNALS}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.parametrize("number", SIGNALS)
def test_before_there_is_anything_to_save_the_signal_exits_at_once(number):
    exit_when_asked()
    with pytest.raises(SystemExit) as stop:
        os.kill(os.getpid(), number)
    assert stop.value.code == PREEMPTED == 75


@pytest.mark.parametrize("signals", [(signal.SIGTERM, signal.SIGTERM), (signal.SIGINT,)])
def test_inside_the_context_it_only_asks(signals):
    exit_when_asked()
    before = signal.getsignal(signals[0])
    with Preemption() as preemption:
        assert not preemption.reached(1)
        for number in signals:
            os.kill(os.getpid(), number)
        assert preemption.reached(2)
        with pytest.raises(SystemExit) as stop:
            list(preemption.unless_reached(2, [1]))
    assert stop.value.code == PREEMPTED
    assert signal.getsignal(signals[0]) is before


def test_a_second_interrupt_ends_the_process_at_once_though_python_does_not_run():
    """The first is told at once; the second does not wait for what runs outside of Python, as a compilation does."""
    program = (
        "import hashlib\n"
        "from experiments.training.preemption import Preemption, second_interrupt_ends\n"
        "with second_interrupt_ends(), Preemption():\n"
        "    print('ready', flush=True)\n"
        "    hashlib.pbkdf2_hmac('sha256', b'', b'', 2**30)\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", program], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout.readline() == "ready\n"
    process.send_signal(signal.SIGINT)
    assert process.stderr.readline() == "\n"
    assert "once more to stop at once" in process.stderr.readline()
    process.send_signal(signal.SIGINT)
    assert process.wait(timeout=30) == INTERRUPTED == 130
    assert process.stderr.read() == ""


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
        # Ctrl-C once, and whoever takes the machine away.
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGTERM):
            os.kill(process.pid, number)
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
