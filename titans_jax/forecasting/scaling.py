"""Standardisation by the training part alone, as in the field's protocol."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from titans_jax.typing import Float


class Standardiser(NamedTuple):
    """Mean and deviation of every column of the training part."""

    mean: Float[np.ndarray, "C"]
    std: Float[np.ndarray, "C"]

    def apply(self, values: Float[np.ndarray, "T C"]) -> Float[np.ndarray, "T C"]:
        """Standardised values in float32: what models see and errors are measured on."""
        return ((values - self.mean) / self.std).astype(np.float32)

    def undo(self, values: Float[np.ndarray, "T C"]) -> Float[np.ndarray, "T C"]:
        """Back to the table's units."""
        return np.asarray(values, np.float64) * self.std + self.mean


def standardiser(train: Float[np.ndarray, "T C"]) -> Standardiser:
    """The standardiser of a training part; a constant column is only shifted.

    Args:
        train: values of the training rows.
    """
    std = train.std(axis=0)
    # The deviation of a constant column is often not zero but the rounding of its mean.
    constant = train.max(axis=0) == train.min(axis=0)
    return Standardiser(train.mean(axis=0), np.where(constant, 1.0, std))
