"""A training of two real processes on this machine, by the real command."""

import os
import socket
import subprocess
import sys
import time
from pathlib import Path

TIMEOUT = 10  # seconds: config.process_timeout
SMALL = {
    "steps": 100_000, "eval_every": 0, "checkpoint_every": 100_000, "log_every": 1, "batch_size": 4, "baseline": False,
    "distributed": True, "cpu_devices": 1, "process_timeout": TIMEOUT, "data.sequence_length": 16, "sample.length": 4,
    "model.variant": "transformer", "model.dim": 16, "model.num_layers": 1, "model.num_heads": 2, "model.window": 8,
    "model.feed_forward": 16,
}  # fmt: skip


class Job:
    """Two processes and what they print."""

    def __init__(self, text: Path, workdir: Path, logs: Path):
        """Starts them.

        Args:
          text: to train on.
          workdir: of the run.
          logs: folder for what they print; created.
        """
        logs.mkdir()
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        flags = [f"--config.{name}={value}" for name, value in SMALL.items()]
        command = [sys.executable, "-u", "-m", "experiments.train", f"--workdir={workdir}"]
        command += ["--config=experiments/configs/tiny.py", f"--config.data.path={text}", *flags]
        self.logs = [logs / f"{index}.log" for index in (0, 1)]
        self.processes = []
        for index, log in enumerate(self.logs):
            environment = os.environ | {
                "JAX_COORDINATOR_ADDRESS": f"127.0.0.1:{port}",
                "JAX_NUM_PROCESSES": "2",
                "JAX_PROCESS_ID": str(index),
                "JAX_PLATFORMS": "cpu",
            }
            with log.open("w") as output:
                process = subprocess.Popen(
                    command, env=environment, stdout=output, stderr=subprocess.STDOUT
                )
            self.processes.append(process)

    def wait_for(self, text: str, seconds: float = 120) -> None:
        """Waits until the first process has printed something.

        Raises:
          AssertionError: it did not, or a process ended.
        """
        end = time.monotonic() + seconds
        while text not in self.said():
            alive = all(process.poll() is None for process in self.processes)
            assert alive, f"a process ended before {text!r}: {self.said()[-3000:]}"
            assert time.monotonic() < end, (
                f"no {text!r} in {seconds} seconds: {self.said()[-3000:]}"
            )
            time.sleep(0.1)

    def said(self, index: int = 0) -> str:
        """What a process has printed so far."""
        return self.logs[index].read_text()

    def close(self) -> None:
        """Kills what still runs."""
        for process in self.processes:
            process.kill()
            process.wait()
