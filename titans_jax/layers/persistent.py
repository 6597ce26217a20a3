"""Persistent memory: learned tokens that stand before every sequence (paper, Eq. 19)."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import nnx

from titans_jax.layers.norms import statistics_dtype
from titans_jax.typing import Array, Float


class PersistentTokens(nnx.Module):
    """P learned tokens of the residual stream; P may be 0."""

    def __init__(self, count: int, dim: int, dtype: jax.typing.DTypeLike, *, rngs: nnx.Rngs):
        """Makes the tokens, normal with standard deviation 0.02, like token embeddings.

        Args:
            count: number of tokens.
            dim: model dimension.
            dtype: dtype of the activations; the tokens are kept in float32 at least.
            rngs: source of the initial tokens.
        """
        self.dim = dim
        self.dtype = dtype
        # No parameter at all when there are no tokens: checkpoints refuse arrays without elements.
        initial = jax.random.normal(rngs.params(), (count, dim), statistics_dtype(dtype))
        self.tokens = nnx.Param(0.02 * initial) if count else None

    def __call__(self) -> Float[Array, "P D"]:
        """The tokens, in the dtype of the activations."""
        if self.tokens is None:
            return jnp.zeros((0, self.dim), self.dtype)
        return self.tokens[...].astype(self.dtype)
