"""What the baselines' layers share: projections into heads, their streaming state, and per-token parameters."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Float

from titans_jax.layers.convolution import CausalConv
from titans_jax.layers.linear import linear
from titans_jax.layers.norms import statistics_dtype
from titans_jax.placement import by_heads
from titans_jax.registry import registered
from titans_jax.typing import Array, Heads, PerHead, TokenFlags


@registered
class RecurrentState(NamedTuple):
    """Streaming state of a layer.

    Attributes:
        carry: of the recurrence, leaves ``[B, H, rows, cols]``, float32 at least.
        tails: last inputs of the convolutions.
    """

    carry: Any
    tails: tuple[Float[Array, "B w-1 _"], ...]


class Projection(nnx.Module):
    """Linear, then with ``conv_width`` a causal depthwise convolution and SiLU, split into heads."""

    def __init__(
        self,
        dim: int,
        features: int,
        heads: int,
        dtype: jax.typing.DTypeLike,
        *,
        conv_width: int = 0,
        rngs: nnx.Rngs,
    ):
        """Makes the projection.

        Args:
            dim: D.
            features: of all heads together.
            heads: H.
            dtype: of the activations.
            conv_width: taps of the convolution; 0 for none, and then no SiLU either.
            rngs: source of the initial parameters.
        """
        self.heads, self.dtype = heads, dtype
        self.linear = linear(dim, features, dtype, rngs=rngs)
        self.conv = CausalConv(features, conv_width, dtype, rngs=rngs) if conv_width else None
        self.tail_shape = (max(conv_width - 1, 0), features)

    def init_tail(self, batch_size: int) -> Float[Array, "B w-1 _"]:
        """What precedes a sequence: zeros."""
        return jnp.zeros((batch_size, *self.tail_shape), self.dtype)

    def __call__(
        self,
        x: Float[Array, "B T D"],
        tail: Float[Array, "B w-1 _"] | None = None,
        mask: TokenFlags | None = None,
        reset: TokenFlags | None = None,
    ) -> tuple[Heads, Float[Array, "B w-1 _"] | None]:
        """The heads ``[B, T, H, K]``, and the convolution's new tail."""
        y = self.linear(x)
        if self.conv is not None:
            tail = self.init_tail(x.shape[0]) if tail is None else tail
            y, tail = self.conv(y, tail, reset, mask)
            y = jax.nn.silu(y)
        return by_heads(y.reshape(*x.shape[:2], self.heads, -1), 2), tail


def per_head(dim: int, heads: int, dtype: jax.typing.DTypeLike, rngs: nnx.Rngs) -> nnx.Param:
    """A kernel ``[D, H]`` from a token to one number per head."""
    initialise = nnx.initializers.truncated_normal(dim**-0.5)
    return nnx.Param(initialise(rngs.params(), (dim, heads), statistics_dtype(dtype)))


def apply_per_head(x: Float[Array, "B T D"], kernel: nnx.Param) -> PerHead:
    """One number per head and token, computed in float32 at least."""
    return x.astype(kernel.dtype) @ kernel[...]


def zero_masked(x: Array, mask: TokenFlags | None) -> Array:
    """Zeros at padding, which make of it an identity step (scan.py)."""
    if mask is None:
        return x
    return jnp.where(mask.reshape(*mask.shape, *(1,) * (x.ndim - 2)), x, jnp.zeros((), x.dtype))


class DecayGate(nnx.Module):
    """Mamba-2's decay, a_t = exp(-exp(log_a) step_t), step_t = softplus(x_t W + bias); also Gated DeltaNet's.

    Initialised as published: exp(log_a) uniform in [1, 16], steps log-uniform in [0.001, 0.1].
    """

    def __init__(self, dim: int, heads: int, dtype: jax.typing.DTypeLike, *, rngs: nnx.Rngs):
        """Makes the parameters.

        Args:
            dim: D.
            heads: H.
            dtype: of the activations; everything here is float32 at least.
            rngs: source of the initial parameters.
        """
        wide = statistics_dtype(dtype)
        self.step_kernel = per_head(dim, heads, dtype, rngs)
        a = jax.random.uniform(rngs.params(), (heads,), wide, 1.0, 16.0)
        self.log_a = nnx.Param(jnp.log(a))
        low, high = math.log(0.001), math.log(0.1)
        step = jnp.exp(jax.random.uniform(rngs.params(), (heads,), wide, low, high))
        self.step_bias = nnx.Param(step + jnp.log(-jnp.expm1(-step)))  # inverse of softplus

    def __call__(self, x: Float[Array, "B T D"]) -> tuple[PerHead, PerHead]:
        """The logarithm of the decay, and the step."""
        step = jax.nn.softplus(apply_per_head(x, self.step_kernel) + self.step_bias[...])
        return -jnp.exp(self.log_a[...]) * step, step


def zero_state(batch: int, heads: int, rows: int, cols: int, dtype: Any) -> Array:
    """The state before a sequence."""
    return jnp.zeros((batch, heads, rows, cols), statistics_dtype(dtype))
