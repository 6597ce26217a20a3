"""Linear attention: Katharopoulos et al. 2020 (arXiv 2006.16236), Eq. 18-20, normalised, with phi(x) = elu(x) + 1.

S_t = S_{t-1} + phi(k_t)^T v_t;  z_t = z_{t-1} + phi(k_t);  y_t = phi(q_t) S_t / (phi(q_t) . z_t)
"""

from __future__ import annotations

import jax
from flax import nnx

from titans_jax.baselines.linear import LinearCarry, LinearTokens, linear_step
from titans_jax.baselines.projection import Projection, RecurrentState, zero_masked, zero_state
from titans_jax.baselines.scan import chunk_scan
from titans_jax.config import TitansConfig
from titans_jax.layers.linear import linear
from titans_jax.typing import Array, Bool, Float


class LinearAttention(nnx.Module):
    """Normalised linear attention."""

    def __init__(self, config: TitansConfig, *, rngs: nnx.Rngs):
        """Makes the projections.

        Args:
            config: the model's configuration.
            rngs: source of the initial parameters.
        """
        dim, dtype, self.config = config.dim, config.activation_dtype, config.recurrence
        self.dtype, heads = dtype, self.config.num_heads
        self.keys, self.values = config.recurrence_features("linear_attention")
        self.query = Projection(dim, self.keys, heads, dtype, rngs=rngs)
        self.key = Projection(dim, self.keys, heads, dtype, rngs=rngs)
        self.value = Projection(dim, self.values, heads, dtype, rngs=rngs)
        self.output = linear(self.values, dim, dtype, scale=config.residual_scale, rngs=rngs)

    def init_state(self, batch_size: int) -> RecurrentState:
        """The state before a sequence."""
        heads = self.config.num_heads
        k, v = self.keys // heads, self.values // heads
        carry = LinearCarry(
            zero_state(batch_size, heads, k, v, self.dtype),
            zero_state(batch_size, heads, 1, k, self.dtype),
        )
        return RecurrentState(carry, ())

    def __call__(
        self,
        x: Float[Array, "B T D"],
        state: RecurrentState,
        mask: Bool[Array, "B T"] | None,
        reset: Bool[Array, "B T"] | None,
    ) -> tuple[Float[Array, "B T D"], RecurrentState]:
        """The outputs, and the state after the last token."""
        q, k, v = (p(x)[0] for p in (self.query, self.key, self.value))
        tokens = LinearTokens(
            jax.nn.elu(q) + 1, zero_masked(jax.nn.elu(k) + 1, mask), zero_masked(v, mask), None
        )
        carry, y = chunk_scan(
            linear_step,
            state.carry,
            tokens,
            chunk=self.config.chunk,
            reset=reset,
            execution=self.config.execution,
        )
        return self.output(y.reshape(*x.shape[:2], -1)), RecurrentState(carry, ())
