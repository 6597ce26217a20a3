"""SwiGLU feed-forward (Shazeer, 2020), as in the Transformer++ recipe."""

from __future__ import annotations

import jax
from flax import nnx

from titans_jax.layers.linear import linear
from titans_jax.typing import Array, Float


class SwiGLU(nnx.Module):
    """down(silu(gate(x)) * up(x)), token by token."""

    def __init__(
        self,
        dim: int,
        hidden: int,
        dtype: jax.typing.DTypeLike,
        *,
        residual_scale: float,
        rngs: nnx.Rngs,
    ):
        """Makes the three projections.

        Args:
            dim: model dimension.
            hidden: hidden width.
            dtype: dtype of the activations.
            residual_scale: factor on the initial standard deviation of the output projection.
            rngs: source of the initial parameters.
        """
        self.gate = linear(dim, hidden, dtype, rngs=rngs)
        self.up = linear(dim, hidden, dtype, rngs=rngs)
        self.down = linear(hidden, dim, dtype, scale=residual_scale, rngs=rngs)

    def __call__(self, x: Float[Array, "... D"]) -> Float[Array, "... D"]:
        """Applies the layer to every token.

        Args:
            x: inputs.
        """
        return self.down(jax.nn.silu(self.gate(x)) * self.up(x))
