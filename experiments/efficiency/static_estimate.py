"""The compile report of a preset's training step for TPUs that are absent, from a process of its own.

In a process of its own because libtpu, once loaded, changes what the rest of a program sees; the command is that of
experiments.compile_report.
"""

import json
import subprocess
import sys
from typing import Any

from experiments.efficiency.peer_processes import ROOT


def estimate(variant: str, preset: str, topology: str, *flags: str) -> dict[str, Any]:
    """The report of a preset's training step.

    Args:
      variant: of the model.
      preset: one of the paper's sizes.
      topology: chip and shape.
      *flags: further ones of experiments.compile_report.

    Returns:
      The report as a dict; or {"failed": ...}, what the command said, where it has none.
    """
    config = f"--config=experiments/configs/titans_{preset}.py:{variant}"
    command = [
        sys.executable,
        "-m",
        "experiments.compile_report",
        config,
        f"--topology={topology}",
        "--json",
        *flags,
    ]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        lines = done.stderr.strip().splitlines() or ["it ended without a message"]
        return {"failed": lines[-1]}
    return json.loads(done.stdout[done.stdout.index("{") :])
