"""Causal depthwise convolution, the short mixing after the q, k, v projections (paper, 4.4).

    y_t = sum_{j=0}^{w-1} kernel_j * x_{t-j}

The state of a stream is its last w - 1 inputs, the `tail`. Splitting a sequence anywhere and
carrying the tail gives what the whole sequence gives.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import nnx

from titans_jax.layers.norms import statistics_dtype
from titans_jax.typing import Array, Bool, Float


def causal_convolution(
    x: Float[Array, "B T D"],
    kernel: Float[Array, "w D"],
    tail: Float[Array, "B w-1 D"],
    reset: Bool[Array, "B T"] | None = None,
    mask: Bool[Array, "B T"] | None = None,
) -> tuple[Float[Array, "B T D"], Float[Array, "B w-1 D"]]:
    """Depthwise causal convolution that never looks across the start of a document.

    Args:
        x: inputs.
        kernel: `kernel[j]` multiplies the input j tokens ago.
        tail: the w - 1 inputs before `x`, oldest first; zeros at the start of a stream.
        reset: True where a document starts; taps that reach across a start see zeros.
        mask: False where a token is padding; it counts as zeros and keeps its place.

    Returns:
        The outputs, and the tail after the last token.
    """
    width = kernel.shape[0]
    length = x.shape[1]
    if mask is not None:
        x = jnp.where(mask[..., None], x, jnp.zeros((), x.dtype))
    history = jnp.concatenate([tail.astype(x.dtype), x], axis=1)  # [B, w-1+T, D]
    document = None
    if reset is not None:
        document = jnp.cumsum(reset, axis=1, dtype=jnp.int32)
        document = jnp.pad(document, ((0, 0), (width - 1, 0)))  # the tail belongs to document 0

    y = x * kernel[0].astype(x.dtype)
    for lag in range(1, width):
        start = width - 1 - lag
        tap = history[:, start : start + length]
        if document is not None:
            same = document[:, start : start + length] == document[:, width - 1 :]
            tap = jnp.where(same[..., None], tap, jnp.zeros((), x.dtype))
        y = y + tap * kernel[lag].astype(x.dtype)

    new_tail = history[:, length:]
    if document is not None:
        # A start that lies within the tail must still hide what is before it from the next call.
        same = document[:, length:] == document[:, -1:]
        new_tail = jnp.where(same[..., None], new_tail, jnp.zeros((), x.dtype))
    return y, new_tail.astype(tail.dtype)


class CausalConv(nnx.Module):
    """Causal depthwise convolution with one kernel of `width` taps per feature and no bias."""

    def __init__(
        self,
        dim: int,
        width: int,
        dtype: jax.typing.DTypeLike = jnp.float32,
        *,
        rngs: nnx.Rngs,
    ):
        """Makes the kernel, truncated normal with standard deviation 1/sqrt(width).

        Args:
            dim: number of features.
            width: number of taps, at least 1.
            dtype: dtype of the activations; the kernel is kept in float32 at least.
            rngs: source of the initial kernel.

        Raises:
            ValueError: if `width` is not a positive integer.
        """
        if width < 1:
            raise ValueError(f"width must be a positive integer, got {width!r}")
        initialise = nnx.initializers.truncated_normal(width**-0.5)
        self.kernel = nnx.Param(initialise(rngs.params(), (width, dim), statistics_dtype(dtype)))

    def __call__(
        self,
        x: Float[Array, "B T D"],
        tail: Float[Array, "B w-1 D"],
        reset: Bool[Array, "B T"] | None = None,
        mask: Bool[Array, "B T"] | None = None,
    ) -> tuple[Float[Array, "B T D"], Float[Array, "B w-1 D"]]:
        """Returns the outputs and the new tail, see `causal_convolution`.

        Args:
            x: inputs.
            tail: the stream's last w - 1 inputs; zeros at its start.
            reset: True where a document starts: nothing before it is seen.
            mask: False for padding, which counts as zeros.
        """
        return causal_convolution(x, self.kernel[...], tail, reset, mask)
