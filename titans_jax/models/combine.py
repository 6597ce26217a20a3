"""How MAG and MAC join attention and memory: y (x) m in Eq. 25 and 28 of the paper.

"We normalize the outputs y and M(x~) using learnable vector-valued weights, followed by a non-linearity", then one
output projection into the residual stream. With y and m normalised, there are two readings:

    "sigmoid", "silu"   y * act(m)
    "mutual"            y * sigmoid(m) + m * sigmoid(y)       the default

In the first the memory can only scale y, which differs from token to token: what it recalls reaches the residual stream
as a product alone. In the second each gates the other.

y is normalised here; m was by the memory itself, head by head and before its linear gate (memory/layer.py). A norm
after the gate would undo it where it closes all features at once: a memory that has nothing to say would speak as
loudly as one that has.
"""

from __future__ import annotations

import jax
from flax import nnx

from titans_jax.config import TitansConfig
from titans_jax.layers.linear import linear
from titans_jax.layers.norms import RMSNorm
from titans_jax.typing import Array, Float

ACTIVATIONS = {"silu": jax.nn.silu, "sigmoid": jax.nn.sigmoid}
MUTUAL = "mutual"


class GatedCombination(nnx.Module):
    """W_O [y (x) m], see the module's docstring."""

    def __init__(self, config: TitansConfig, *, rngs: nnx.Rngs):
        """Makes the norm and the output projection.

        Args:
            config: the model's configuration.
            rngs: source of the initial parameters.
        """
        dim, dtype = config.dim, config.activation_dtype
        self.combine = config.combine
        self.attention_norm = RMSNorm(dim, dtype, rngs=rngs)
        self.output = linear(dim, dim, dtype, scale=config.residual_scale, rngs=rngs)

    def __call__(
        self, attended: Float[Array, "B T D"], remembered: Float[Array, "B T D"]
    ) -> Float[Array, "B T D"]:
        """Joins the attention's outputs and the memory's, which are normalised, and projects them."""
        y, m = self.attention_norm(attended), remembered
        if self.combine == MUTUAL:
            return self.output(y * jax.nn.sigmoid(m) + m * jax.nn.sigmoid(y))
        return self.output(y * ACTIVATIONS[self.combine](m))
