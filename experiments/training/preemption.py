"""SIGTERM (the machine is taken away soon) and Ctrl-C: training saves at the next step and exits with `PREEMPTED`.

Who started it may then start it again (experiments/launch/worker.sh does). A single process is told by the signal
itself. Among several, whichever gets it, all agree on one step through JAX's preemption service, so that they save the
same. Further SIGTERMs change nothing: a checkpoint being written is finished. A second Ctrl-C ends the process at once,
in the middle of a compilation too, and leaves what was saved before.
"""

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Iterable, Iterator
from types import FrameType
from typing import Any, TypeVar

import jax
from jax.experimental import multihost_utils

from experiments.training.processes import say

#: Exit code of a training that can be continued (EX_TEMPFAIL of sysexits.h).
PREEMPTED = 75
#: Exit code after a second Ctrl-C, as shells have it.
INTERRUPTED = 128 + signal.SIGINT

T = TypeVar("T")


def exit_when_asked() -> None:
    """From now on SIGTERM and Ctrl-C end the process with `PREEMPTED`: before there is anything to save."""

    def leave(number: int, frame: FrameType | None) -> None:
        raise SystemExit(PREEMPTED)

    signal.signal(signal.SIGTERM, leave)
    signal.signal(signal.SIGINT, leave)


class Preemption:
    """Whether this process, or one that it works with, was asked to stop; a context in which signals only ask.

    All processes ask at the same steps. Orbax asks JAX too, about the step that it may save, so steps must be those.
    """

    def __init__(self) -> None:
        self._asked = False
        self._before = contextlib.ExitStack()
        self._together = jax.distributed.is_initialized()  # JAX listens for SIGTERM then

    def __enter__(self) -> "Preemption":
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT,) if self._together else (signal.SIGINT, signal.SIGTERM):
                self._before.callback(signal.signal, number, signal.signal(number, self._ask))
        return self

    def __exit__(self, *_: Any) -> None:
        self._before.close()

    def _ask(self, number: int, frame: FrameType | None) -> None:
        if self._together:
            os.kill(os.getpid(), signal.SIGTERM)  # so that the other processes hear of it
        else:
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


@contextlib.contextmanager
def second_interrupt_ends() -> Iterator[None]:
    """A program in which a second Ctrl-C ends the process at once: a thread hears of it.

    Python's own handlers wait for the end of what runs outside of Python, such as a compilation.
    """
    heard, tell = os.pipe()
    os.set_blocking(tell, False)

    def listen() -> None:
        interrupts = 0
        while number := os.read(heard, 1):
            interrupts += number[0] == signal.SIGINT
            if interrupts == 2:
                os._exit(INTERRUPTED)
            if number[0] == signal.SIGINT:
                print(
                    "\ninterrupted: saves and stops as soon as it can; once more to stop at once",
                    file=sys.stderr,
                    flush=True,
                )

    thread = threading.Thread(target=listen, name="interrupts", daemon=True)
    thread.start()
    before = signal.set_wakeup_fd(tell, warn_on_full_buffer=False)
    try:
        yield
    finally:
        signal.set_wakeup_fd(before)
        os.close(tell)
        thread.join()
        os.close(heard)
