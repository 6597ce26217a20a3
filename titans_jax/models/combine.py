"""How MAG and MAC join attention and memory: y (x) m in Eq. 25 and 28 of the paper.

"We normalize the outputs y and M(x~) using learnable vector-valued weights, followed by a non-linearity":
RMSNorm(y) * act(RMSNorm(m)), then one output projection into the residual stream.
"""

from __future__ import annotations

import jax
from flax import nnx

from titans_jax.config import TitansConfig
from titans_jax.layers.linear import linear
from titans_jax.layers.norms import RMSNorm
from titans_jax.typing import Array, Float

ACTIVATIONS = {"silu": jax.nn.silu, "sigmoid": jax.nn.sigmoid}


class GatedCombination(nnx.Module):
    """W_O [RMSNorm(y) * act(RMSNorm(m))]."""

    def __init__(self, config: TitansConfig, *, rngs: nnx.Rngs):
        """Makes the two norms and the output projection.

        Args:
            config: the model's configuration.
            rngs: source of the initial parameters.
        """
        dim, dtype = config.dim, config.activation_dtype
        self.activation = config.combine
        self.attention_norm = RMSNorm(dim, dtype, rngs=rngs)
        self.memory_norm = RMSNorm(dim, dtype, rngs=rngs)
        self.output = linear(dim, dim, dtype, scale=config.residual_scale, rngs=rngs)

    def __call__(
        self, attended: Float[Array, "B T D"], remembered: Float[Array, "B T D"]
    ) -> Float[Array, "B T D"]:
        """Gates the attention's outputs by the memory's and projects them."""
        gate = ACTIVATIONS[self.activation](self.memory_norm(remembered))
        return self.output(self.attention_norm(attended) * gate)
