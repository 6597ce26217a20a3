"""How long steps take, and what share of the time goes into them."""

import time
from collections.abc import Callable

import numpy as np


class StepClock:
    """Times steps by the moments at which their results are known."""

    def __init__(self, now: Callable[[], float] = time.perf_counter):
        """Starts; whatever comes before the first step's end, such as compiling, is no step's time.

        Args:
          now: seconds.
        """
        self._now = now
        self._start = now()
        self._since: float | None = None  # where the running step began
        self._stepping = 0.0
        self._recent: list[float] = []

    def step(self) -> None:
        """A step's results are there."""
        now = self._now()
        if self._since is not None:
            self._recent.append(now - self._since)
            self._stepping += now - self._since
        self._since = now

    def restart(self) -> None:
        """Leaves the time since the last step out: a validation or a checkpoint took it."""
        if self._since is not None:
            self._since = self._now()

    def report(self) -> dict[str, float]:
        """Returns the times of the steps since the last report, and begins anew.

        Returns:
          "step_seconds_p50", "..._p90", "..._p99", "..._mean" of these steps (none if there were none), and "goodput",
          the share of all time since the start that steps took.
        """
        times = {"goodput": self._stepping / max(self._now() - self._start, 1e-9)}
        if self._recent:
            shares = (50, 90, 99)
            values = np.percentile(self._recent, shares)
            times |= {f"step_seconds_p{p}": float(v) for p, v in zip(shares, values, strict=True)}
            times["step_seconds_mean"] = sum(self._recent) / len(self._recent)
        self._recent = []
        return times
