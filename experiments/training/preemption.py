"""SIGTERM: the machine is taken away soon. Training saves at the next step and exits with `PREEMPTED`.

Who started it may then start it again (experiments/launch/worker.sh does). A single process is told by the signal
itself. Among several, whichever gets it, all agree on one step through JAX's preemption service, so that they save the
same. Further signals change nothing: a checkpoint being written is finished.
"""

import signal
import threading
from collections.abc import Iterable, Iterator
from types import FrameType
from typing import Any, TypeVar

import jax
from jax.experimental import multihost_utils

from experiments.training.processes import say

#: Exit code of a training that can be continued (EX_TEMPFAIL of sysexits.h).
PREEMPTED = 75

T = TypeVar("T")


def exit_when_asked() -> None:
    """From now on SIGTERM ends the process with `PREEMPTED` at once: before there is anything to save."""

    def leave(number: int, frame: FrameType | None) -> None:
        raise SystemExit(PREEMPTED)

    signal.signal(signal.SIGTERM, leave)


class Preemption:
    """Whether this process, or one that it works with, was asked to stop; a context in which SIGTERM only asks.

    All processes ask at the same steps. Orbax asks JAX too, about the step that it may save, so steps must be those.
    """

    def __init__(self) -> None:
        self._asked = False
        self._before: Any = None
        self._together = jax.distributed.is_initialized()  # JAX listens for the signal then

    def __enter__(self) -> "Preemption":
        if not self._together and threading.current_thread() is threading.main_thread():
            self._before = signal.signal(signal.SIGTERM, self._ask)
        return self

    def __exit__(self, *_: Any) -> None:
        if self._before is not None:
            signal.signal(signal.SIGTERM, self._before)

    def _ask(self, number: int, frame: FrameType | None) -> None:
        self._asked = True

    def reached(self, step: int) -> bool:
        """Whether to save and stop at a step, in all processes; steps ascend."""
        if self._together and not self._asked:
            self._asked = multihost_utils.reached_preemption_sync_point(step)
        return self._asked

    def unless_reached(self, step: int, items: Iterable[T]) -> Iterator[T]:
        """Gives the items, and exits before the next one when asked to; for what is done again after a restart.

        Args:
          step: the last one that was asked about; items count on from it.
          items: any.
        """
        for index, item in enumerate(items, 1):
            if self.reached(step + index):
                self.leave("all steps are saved")
            yield item

    def leave(self, state: str) -> None:
        """Exits with `PREEMPTED`.

        Args:
          state: what the next start finds, for the log.
        """
        say(f"asked to stop: {state}; the same command continues")
        raise SystemExit(PREEMPTED)
