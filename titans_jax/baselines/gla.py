"""Gated linear attention: Yang et al. 2023 (arXiv 2312.06635), Eq. 3 with the parametrisation of section 4.3.

S_t = Diag(alpha_t) S_{t-1} + k_t^T v_t;  y_t = q_t S_t;  alpha_t = sigmoid(x_t W_1 W_2 + b)^(1/16), W_1 of rank 16;
keys of D/2 features; y = W_O [ norm(y) * swish(x W_r) ], norm an RMS norm per head (a LayerNorm in the paper).
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import nnx

from titans_jax.baselines.projection import Projection, RecurrentState, zero_masked, zero_state
from titans_jax.baselines.scan import chunk_scan
from titans_jax.baselines.vector_decay import VectorDecayTokens, vector_decay_step
from titans_jax.config import TitansConfig
from titans_jax.layers.linear import linear
from titans_jax.layers.norms import RMSNorm, statistics_dtype
from titans_jax.typing import Array, Bool, Float

GATE_RANK, GATE_TEMPERATURE = 16, 16.0


class GatedLinearAttention(nnx.Module):
    """GLA with its output gate."""

    def __init__(self, config: TitansConfig, *, rngs: nnx.Rngs):
        """Makes the projections.

        Args:
            config: the model's configuration.
            rngs: source of the initial parameters.
        """
        dim, dtype, self.config = config.dim, config.activation_dtype, config.recurrence
        self.dtype, heads, wide = dtype, self.config.num_heads, statistics_dtype(dtype)
        self.keys, self.values = config.recurrence_features("gla")
        self.query = Projection(dim, self.keys, heads, dtype, rngs=rngs)
        self.key = Projection(dim, self.keys, heads, dtype, rngs=rngs)
        self.value = Projection(dim, self.values, heads, dtype, rngs=rngs)
        self.decay_down = linear(dim, GATE_RANK, wide, rngs=rngs)
        self.decay_up = linear(GATE_RANK, self.keys, wide, rngs=rngs)
        self.decay_bias = nnx.Param(jnp.zeros((self.keys,), wide))
        self.norm = RMSNorm(self.values // heads, dtype, rngs=rngs)
        self.output_gate = linear(dim, self.values, dtype, rngs=rngs)
        self.output = linear(self.values, dim, dtype, scale=config.residual_scale, rngs=rngs)

    def init_state(self, batch_size: int) -> RecurrentState:
        """The state before a sequence."""
        heads = self.config.num_heads
        shape = (heads, self.keys // heads, self.values // heads)
        return RecurrentState(zero_state(batch_size, *shape, self.dtype), ())

    def __call__(
        self,
        x: Float[Array, "B T D"],
        state: RecurrentState,
        mask: Bool[Array, "B T"] | None,
        reset: Bool[Array, "B T"] | None,
    ) -> tuple[Float[Array, "B T D"], RecurrentState]:
        """The outputs, and the state after the last token."""
        q, k, v = (p(x)[0] for p in (self.query, self.key, self.value))
        logits = self.decay_up(self.decay_down(x)) + self.decay_bias[...]
        log_keep = (jax.nn.log_sigmoid(logits) / GATE_TEMPERATURE).reshape(q.shape)
        tokens = VectorDecayTokens(
            q * q.shape[-1] ** -0.5,
            zero_masked(k, mask),
            zero_masked(v, mask),
            zero_masked(log_keep, mask),
        )
        carry, y = chunk_scan(
            vector_decay_step,
            state.carry,
            tokens,
            chunk=self.config.chunk,
            reset=reset,
            execution=self.config.execution,
        )
        y = self.norm(y).reshape(*x.shape[:2], -1) * jax.nn.silu(self.output_gate(x))
        return self.output(y), RecurrentState(carry, ())
