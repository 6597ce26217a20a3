"""Ends a process whose work hangs: a collective that a hung process never joins, storage that never answers.

Every process watches itself. One that hangs lets all others wait for it, so all of them end, each with the stacks of
its threads in its log, and with the exit code of something that can be started again.
"""

import contextlib
import faulthandler
import os
import sys
import threading
import time
from collections.abc import Iterator

from experiments.training.preemption import PREEMPTED


class Watchdog:
    """Watches the work in `watching`, from a thread of its own."""

    def __init__(self, seconds: float):
        """Starts watching when there is something to watch.

        Args:
          seconds: see config.step_timeout; 0 watches nothing.
        """
        self._seconds = seconds
        self._seen: set[str] = set()
        self._changed = threading.Condition()
        self._current: tuple[float, str, float] | None = None  # deadline, what, limit
        self._closed = False
        if seconds:
            threading.Thread(target=self._watch, name="watchdog", daemon=True).start()

    @contextlib.contextmanager
    def watching(self, what: str, *, kind: str = "", times: int = 1) -> Iterator[None]:
        """Ends the process if what is done inside takes too long; the first of each kind, which compiles, may.

        Args:
          what: a name for the message.
          kind: of work; "" for `what`.
          times: how many steps' time it may take.
        """
        kind = kind or what
        if not self._seconds or kind not in self._seen:
            yield
            self._seen.add(kind)
            return
        limit = float(self._seconds * times)
        self._set((time.monotonic() + limit, what, limit))
        try:
            yield
        finally:
            self._set(None)

    def close(self) -> None:
        """Ends the thread."""
        with self._changed:
            self._closed = True
            self._changed.notify()

    def _set(self, current: tuple[float, str, float] | None) -> None:
        # The thread is not woken at every step: it looks again when the deadline that it knows is over.
        with self._changed:
            self._current = current

    def _watch(self) -> None:
        with self._changed:
            while not self._closed:
                now = time.monotonic()
                if self._current is not None and now >= self._current[0]:
                    _end(*self._current[1:])
                until = now + self._seconds if self._current is None else self._current[0]
                # A step that starts while this waits may end the wait late by as long; a quarter is close enough.
                self._changed.wait(min(until - now, self._seconds / 4))


def _end(what: str, limit: float) -> None:
    print(
        f"error: {what} did not end within {limit:.0f} seconds (config.step_timeout): this process or another hangs. "
        "Where each thread is:",
        file=sys.stderr,
        flush=True,
    )
    faulthandler.dump_traceback(all_threads=True)
    os._exit(PREEMPTED)  # the thread that hangs would not let the interpreter finish
