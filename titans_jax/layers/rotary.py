"""Rotary position embedding (Su et al., 2021): turn feature pairs by angles that grow with
position.

Attention scores then depend on positions only through their differences, so callers may count
positions from wherever suits them. Windowed and segment attention count from their own block,
because a position near two million has lost its fraction in float32.
"""

from __future__ import annotations

import jax.numpy as jnp

from titans_jax.layers.norms import statistics_dtype
from titans_jax.typing import Array, Float, Int


def rotate(
    x: Float[Array, "... T H K"], positions: Int[Array, "... T"], base: float
) -> Float[Array, "... T H K"]:
    """Turns features i and i + K/2 of every head by positions * base^(-2i/K).

    Args:
        x: queries or keys; K is even.
        positions: position of every token, broadcast against `x`'s leading axes.
        base: slowest wavelength in tokens, up to a factor of 2 pi.

    Returns:
        The turned queries or keys, in `x`'s dtype.
    """
    half = x.shape[-1] // 2
    dtype = statistics_dtype(x.dtype)
    exponent = jnp.arange(half, dtype=dtype) / half
    frequency = jnp.asarray(base, dtype) ** -exponent
    angle = positions[..., None, None].astype(dtype) * frequency  # [... T 1 K/2]
    cos, sin = jnp.cos(angle), jnp.sin(angle)
    first, second = x[..., :half].astype(dtype), x[..., half:].astype(dtype)
    turned = jnp.concatenate([first * cos - second * sin, second * cos + first * sin], axis=-1)
    return turned.astype(x.dtype)
