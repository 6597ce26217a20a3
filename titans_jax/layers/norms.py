"""Normalisations: RMS norm with a learnable gain, and the l2 norm of queries and keys (paper, 4.4).

Statistics are computed in float32 whatever the activations' dtype (a mean of squares in bfloat16
keeps only eight bits); float64 stays float64, which is what the exactness tests use.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import nnx

from titans_jax.typing import Array, Float

RMS_EPSILON = 1e-6
L2_EPSILON = 1e-6


def statistics_dtype(dtype: jax.typing.DTypeLike) -> jnp.dtype:
    """The dtype of statistics and parameters for activations in `dtype`: at least float32.

    Args:
        dtype: of the activations.
    """
    return jnp.promote_types(dtype, jnp.float32)


def rms_norm(x: Float[Array, "... D"], scale: Float[Array, "D"]) -> Float[Array, "... D"]:
    """Divides by the root mean square over the last axis, then multiplies by the gain.

    Args:
        x: activations.
        scale: gain per feature.

    Returns:
        The normalised activations, in `x`'s dtype.
    """
    wide = x.astype(statistics_dtype(x.dtype))
    inverse = jax.lax.rsqrt(jnp.mean(jnp.square(wide), axis=-1, keepdims=True) + RMS_EPSILON)
    return (wide * inverse * scale.astype(wide.dtype)).astype(x.dtype)


def l2_normalise(x: Float[Array, "... K"]) -> Float[Array, "... K"]:
    """Divides by the Euclidean norm over the last axis.

    The epsilon is inside the root: a zero vector maps to zero, and its gradient is finite. It takes
    5e-7 off a unit vector's length.

    Args:
        x: vectors along the last axis.
    """
    wide = x.astype(statistics_dtype(x.dtype))
    inverse = jax.lax.rsqrt(jnp.sum(jnp.square(wide), axis=-1, keepdims=True) + L2_EPSILON)
    return (wide * inverse).astype(x.dtype)


class RMSNorm(nnx.Module):
    """RMS norm over the last axis with a learnable gain, one at the start."""

    def __init__(self, dim: int, dtype: jax.typing.DTypeLike = jnp.float32, *, rngs: nnx.Rngs):
        """Makes the gain.

        Args:
            dim: size of the last axis.
            dtype: dtype of the activations; the gain is kept in float32 at least.
            rngs: unused by the constant initialisation, taken so that every layer is built alike.
        """
        del rngs
        self.scale = nnx.Param(jnp.ones((dim,), statistics_dtype(dtype)))

    def __call__(self, x: Float[Array, "... D"]) -> Float[Array, "... D"]:
        """Normalises `x` over its last axis, see `rms_norm`.

        Args:
            x: inputs.
        """
        return rms_norm(x, self.scale[...])
