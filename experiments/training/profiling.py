"""A trace of a few steps: `--config.profile_steps=10:15`, then `xprof --logdir WORKDIR/profile`."""

import tempfile
from pathlib import Path
from typing import Any

import jax
from etils import epath

from experiments.training.config import profiled_steps
from experiments.training.processes import is_first, say
from experiments.training.workdir import is_url
from experiments.training.writers import copy_folder


class Profile:
    """Traces the steps from a first to a last; only in the first process."""

    def __init__(self, folder: epath.Path, steps: str):
        """Waits for the first step.

        Args:
          folder: for the trace.
          steps: see config.profile_steps.
        """
        self._folder, self._running = folder, False
        self._first, self._last = profiled_steps(steps) if steps and is_first() else (0, 0)
        self._here = ""

    def before(self, step: int, running: Any) -> bool:
        """Starts the trace before its first step, and returns whether it did.

        Args:
          step: about to be done.
          running: what earlier steps compute; waited for, so that they are not in the trace.
        """
        if step == self._first:
            jax.block_until_ready(running)
            self._here = tempfile.mkdtemp() if is_url(self._folder) else str(self._folder)
            jax.profiler.start_trace(self._here)
            self._running = True
            return True
        return False

    def after(self, step: int, running: Any) -> bool:
        """Writes the trace after its last step, and returns whether it did.

        Args:
          step: just started.
          running: what it computes; waited for.
        """
        if step == self._last and self._running:
            jax.block_until_ready(running)
            self.close()
            return True
        return False

    def close(self) -> None:
        """Writes a trace that is still running."""
        if self._running:
            self._running = False
            jax.profiler.stop_trace()
            if is_url(self._folder):
                copy_folder(Path(self._here), self._folder)
            say(f"profile: xprof --logdir {self._folder}")
