"""Two processes: both save the same step when one is asked to stop, and neither waits for one that is lost."""

import re
import signal
import time

import pytest

from experiments.training.checkpoints import checkpoints_in, read_record
from experiments.training.preemption import PREEMPTED
from tests.experiments.job import TIMEOUT, Job
from tests.experiments.tiny_run import write_text


@pytest.mark.slow
def test_a_job_of_two_ends_as_one(tmp_path):
    text, workdir = write_text(tmp_path), tmp_path / "run"

    # Asked to stop: the second gets the signal, both save the step that the first names.
    job = Job(text, workdir, tmp_path / "asked")
    try:
        job.wait_for("step 3/")
        job.processes[1].send_signal(signal.SIGTERM)
        time.sleep(0.05)
        job.processes[1].send_signal(signal.SIGTERM)
        codes = [process.wait(timeout=60) for process in job.processes]
    finally:
        job.close()
    assert codes == [PREEMPTED, PREEMPTED], job.said(0)[-2000:] + job.said(1)[-2000:]
    saved = re.search(r"step (\d+) is saved", job.said())
    assert saved is not None
    (checkpoint,) = checkpoints_in(workdir / "transformer/checkpoints")
    assert checkpoint.name == saved[1]
    assert read_record(checkpoint)["batches"] == int(saved[1])

    # Lost or stopped, whichever of the two: the other ends.
    for lost, number in ((1, signal.SIGKILL), (0, signal.SIGSTOP)):
        job = Job(text, workdir, tmp_path / f"{lost}-{number}")
        try:
            job.wait_for(f"continuing after step {saved[1]}")
            job.wait_for(f"step {int(saved[1]) + 3}/")
            job.processes[lost].send_signal(number)
            began = time.monotonic()
            code = job.processes[1 - lost].wait(timeout=60)
            took = time.monotonic() - began
        finally:
            job.close()
        assert code == PREEMPTED, job.said(1 - lost)[-3000:]
        assert took < 2 * TIMEOUT + 5
        assert "most likely because another process was lost" in job.said(1 - lost)
