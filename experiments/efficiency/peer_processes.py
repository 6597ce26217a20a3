"""The worker processes of the comparison, seen from the process that asks."""

import contextlib
import importlib.util
import json
import os
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from experiments.efficiency import peer_protocol as worker

ROOT = Path(__file__).resolve().parents[2]
PEER_MODULES = ("torch", "titans_pytorch")


def peer_interpreter(path: str | None) -> str:
    """The interpreter that runs titans-pytorch.

    Args:
      path: what --peer_python says; None means this interpreter.

    Raises:
      SystemExit: if it cannot import torch and titans_pytorch.
    """
    if path is None:
        if all(importlib.util.find_spec(name) for name in PEER_MODULES):
            return sys.executable
        raise SystemExit(
            f"--peer_python: this interpreter ({sys.executable}) lacks torch or titans_pytorch."
            " Run `make parity` once and pass --peer_python=.venv-parity/bin/python, or name any"
            " interpreter that has both."
        )
    reason = "there is no such file"
    if Path(path).exists():
        probe = subprocess.run(
            [path, "-c", f"import {', '.join(PEER_MODULES)}"], capture_output=True, text=True
        )
        if probe.returncode == 0:
            # Not resolved: an environment's interpreter is a link, and only the link knows the
            # environment. Absolute, because workers start in the repository's root.
            return os.path.abspath(path)
        reason = (probe.stderr.strip().splitlines() or ["it does not run"])[-1]
    raise SystemExit(
        f"--peer_python={path}: {reason}. It must be a Python that imports torch and"
        " titans_pytorch; `make parity` makes one, .venv-parity/bin/python."
    )


class Worker:
    """A process that runs one side of one row and answers requests (`worker.serve`)."""

    def __init__(
        self,
        python: str,
        module: str,
        *arguments: str,
        environment: dict[str, str] | None = None,
    ):
        self._command = [python, "-m", f"experiments.efficiency.{module}", *arguments]
        self._errors = tempfile.TemporaryFile("w+")  # noqa: SIM115 (closed with the process)
        self._process = subprocess.Popen(
            self._command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            text=True,
            cwd=ROOT,
            env={**os.environ, **(environment or {})},
        )

    def ask(self, op: str, **fields: Any) -> Any:
        """Sends one request and waits for its answer.

        Raises:
          RuntimeError: if the process ends without an answer; carries what it wrote.
        """
        requests, answers = self._process.stdin, self._process.stdout
        if requests is None or answers is None:
            raise RuntimeError("the worker was started without pipes")
        with contextlib.suppress(BrokenPipeError):
            requests.write(json.dumps({"op": op, **fields}) + "\n")
            requests.flush()
        for line in answers:
            if line.startswith(worker.MARK):
                return json.loads(line.removeprefix(worker.MARK))
        self._errors.seek(0)
        raise RuntimeError(f"{shlex.join(self._command)} died:\n{self._errors.read()[-4000:]}")

    def close(self) -> None:
        """Ends the process and waits for it."""
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                with contextlib.suppress(BrokenPipeError):
                    pipe.close()
        self._process.wait()
        self._errors.close()


@contextlib.contextmanager
def running(workers: dict[str, Worker]) -> Iterator[dict[str, Worker]]:
    """Closes every worker at the end, whatever happens."""
    try:
        yield workers
    finally:
        for one in workers.values():
            one.close()
