"""Where a result comes from: the commit, the packages, the machine."""

import os
import platform
import subprocess
from pathlib import Path
from typing import Any

from experiments.training.workdir import versions

DIRTY = "dirty: tracked files differ from the commit"


def provenance() -> dict[str, Any]:
    """Returns what stands beside a result: "commit" (and "error" if that is not the code), "versions", "machine"."""
    return {**_code(), "versions": versions(), "machine": machine()}


def machine() -> str:
    """Returns the processor's name and number of cores."""
    name = platform.processor() or platform.machine()
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    for line in lines:
        if line.startswith("model name"):
            name = line.partition(":")[2].strip()
            break
    return f"{name}, {os.cpu_count()} cores"


def _code() -> dict[str, str]:
    try:
        commit = _git("rev-parse", "HEAD")
        changed = _git("status", "--porcelain", "--untracked-files=no")
    except (OSError, subprocess.CalledProcessError):
        return {"commit": "unknown", "error": "not run from a git checkout"}
    return {"commit": commit, "error": DIRTY} if changed else {"commit": commit}


def _git(*arguments: str) -> str:
    here = Path(__file__).parent
    found = subprocess.run(
        ["git", *arguments], cwd=here, check=True, capture_output=True, text=True
    )
    return found.stdout.strip()
