"""Runs a function in a Python process of its own, with a time limit, and brings back what it returns as JSON."""

import importlib
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).resolve().parents[2]


class ChildError(RuntimeError):
    """The function raised, died or took too long; the message is its own where it had one."""


def call(
    target: str, arguments: dict[str, Any], *, timeout: float, environment: dict[str, str]
) -> Any:
    """``target(**arguments)`` in a new process.

    Args:
        target: "module:function".
        arguments: JSON values.
        timeout: seconds.
        environment: variables to set for it.

    Returns:
        What the function returned, a JSON value.

    Raises:
        ChildError: if there is no result.
    """
    with tempfile.TemporaryDirectory(prefix="kernel_report_") as folder:
        answer = Path(folder, "answer.json")
        path = os.pathsep.join(filter(None, [str(REPOSITORY), os.environ.get("PYTHONPATH")]))
        command = [sys.executable, "-m", __name__, target, json.dumps(arguments), str(answer)]
        try:
            done = subprocess.run(
                command,
                env=os.environ | {"PYTHONPATH": path} | environment,
                timeout=timeout,
                capture_output=True,
                text=True,
                check=False,
            )
        except subprocess.TimeoutExpired:
            raise ChildError(f"no result within {timeout:g} seconds") from None
        if not answer.exists():
            lines = done.stderr.strip().splitlines()
            raise ChildError("\n".join([f"exit status {done.returncode}", *lines[-20:]]))
        result = json.loads(answer.read_text())
    if "error" in result:
        raise ChildError(result["error"])
    return result["value"]


def main(target: str, arguments: str, answer: str) -> None:
    """The child: writes the function's value, or what it raised."""
    module, _, name = target.partition(":")
    try:
        value = getattr(importlib.import_module(module), name)(**json.loads(arguments))
        result = {"value": value}
    except Exception as error:
        result = {"error": f"{type(error).__name__}: {error}"}
    Path(answer).write_text(json.dumps(result))


if __name__ == "__main__":
    main(*sys.argv[1:])
