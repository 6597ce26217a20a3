"""Windows of a series: which rows a part's windows start at, and gathering them on the device.

A window is `lookback` rows followed by `horizon` rows. The parts of a series (train, validation, test) are
ranges of rows that are *predicted*: as in the standard loader of the field, the look-back of a part's first
window lies in the part before it.
"""

from __future__ import annotations

import dataclasses

import jax.numpy as jnp
import numpy as np

from titans_jax.typing import Array, Float, Int


@dataclasses.dataclass(frozen=True)
class Parts:
    """Where the parts of a series end; each begins where the one before it ends, the first at row 0.

    Attributes:
        train: first row after the training part.
        valid: first row after the validation part.
        test: first row after the test part.
    """

    train: int
    valid: int
    test: int

    def __post_init__(self) -> None:
        if not 0 < self.train <= self.valid <= self.test:
            raise ValueError(f"parts must end in order and train must have rows, got {self}")


@dataclasses.dataclass(frozen=True)
class WindowStarts:
    """First rows of all windows of each part."""

    train: np.ndarray
    valid: np.ndarray
    test: np.ndarray


def window_starts(parts: Parts, lookback: int, horizon: int) -> WindowStarts:
    """All windows of each part; none is left out.

    Args:
        parts: the ends of the parts.
        lookback: rows seen.
        horizon: rows predicted.

    Raises:
        ValueError: if a part that has rows has too few for a single window.
    """
    spans = {
        "train": (0, parts.train),
        "valid": (parts.train - lookback, parts.valid),
        "test": (parts.valid - lookback, parts.test),
    }
    starts = {}
    for name, (first, end) in spans.items():
        count = end - first - lookback - horizon + 1
        empty = name != "train" and end - first == lookback
        if count < 1 and not empty:
            rows = end - first - (0 if name == "train" else lookback)
            needed = horizon + (lookback if name == "train" else 0)
            raise ValueError(
                f"the {name} part has {rows} rows, but a look-back of {lookback} and a horizon of "
                f"{horizon} need at least {needed}: use a longer series or a shorter horizon"
            )
        starts[name] = np.arange(first, first + max(count, 0), dtype=np.int32)
    return WindowStarts(**starts)


def gather(
    series: Float[Array, "T C"], starts: Int[Array, "B"], rows: int
) -> Float[Array, "B rows C"]:
    """`rows` rows from each start."""
    return series[starts[:, None] + jnp.arange(rows, dtype=jnp.int32)]
