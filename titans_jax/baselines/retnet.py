"""RetNet's multi-scale retention: Sun et al. 2023 (arXiv 2307.08621), Eq. 3-8, recurrent form Eq. 6.

S_n = gamma S_{n-1} + K_n^T V_n;  O_n = Q_n S_n;  Q = (X W_Q) e^{i n theta}, K = (X W_K) e^{-i n theta}
gamma = 1 - 2^(-5 - head);  y = W_O [ GroupNorm(O) * swish(X W_G) ]

The state is kept turned to the first token of the next call, so that positions never grow beyond those of one call:
only their differences matter. The paper's score normalisation, which the GroupNorm undoes, is left out, and the
GroupNorm is an RMS norm per head.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import nnx

from titans_jax.baselines.linear import LinearCarry, LinearTokens, linear_step
from titans_jax.baselines.projection import Projection, RecurrentState, zero_masked, zero_state
from titans_jax.baselines.scan import chunk_scan
from titans_jax.config import TitansConfig
from titans_jax.layers.linear import linear
from titans_jax.layers.norms import RMSNorm, statistics_dtype
from titans_jax.layers.rotary import rotate
from titans_jax.typing import Array, Bool, Float


class Retention(nnx.Module):
    """Multi-scale retention with its swish gate."""

    def __init__(self, config: TitansConfig, *, rngs: nnx.Rngs):
        """Makes the projections.

        Args:
            config: the model's configuration.
            rngs: source of the initial parameters.
        """
        dim, dtype, self.config = config.dim, config.activation_dtype, config.recurrence
        self.dtype, heads, self.rope_base = dtype, self.config.num_heads, config.rope_base
        self.keys, self.values = config.recurrence_features("retnet")
        self.query = Projection(dim, self.keys, heads, dtype, rngs=rngs)
        self.key = Projection(dim, self.keys, heads, dtype, rngs=rngs)
        self.value = Projection(dim, self.values, heads, dtype, rngs=rngs)
        self.norm = RMSNorm(self.values // heads, dtype, rngs=rngs)
        self.output_gate = linear(dim, self.values, dtype, rngs=rngs)
        self.output = linear(self.values, dim, dtype, scale=config.residual_scale, rngs=rngs)

    def init_state(self, batch_size: int) -> RecurrentState:
        """The state before a sequence."""
        heads = self.config.num_heads
        shape = (heads, self.keys // heads, self.values // heads)
        return RecurrentState(LinearCarry(zero_state(batch_size, *shape, self.dtype), None), ())

    def __call__(
        self,
        x: Float[Array, "B T D"],
        state: RecurrentState,
        mask: Bool[Array, "B T"] | None,
        reset: Bool[Array, "B T"] | None,
    ) -> tuple[Float[Array, "B T D"], RecurrentState]:
        """The outputs, and the state after the last token."""
        batch, length, _ = x.shape
        heads = self.config.num_heads
        q, k, v = (p(x)[0] for p in (self.query, self.key, self.value))
        counted = jnp.ones((batch, length), jnp.bool_) if mask is None else mask
        positions = jnp.cumsum(counted, axis=1, dtype=jnp.int32)
        q = rotate(q, positions - 1, self.rope_base) * q.shape[-1] ** -0.5
        k = zero_masked(rotate(k, positions - 1, self.rope_base), mask)
        wide = statistics_dtype(self.dtype)
        log_gamma = jnp.log1p(-(2.0 ** (-5.0 - jnp.arange(heads, dtype=wide))))
        log_keep = zero_masked(jnp.broadcast_to(log_gamma, (batch, length, heads)), mask)
        carry, y = chunk_scan(
            linear_step,
            state.carry,
            LinearTokens(q, k, zero_masked(v, mask), log_keep),
            chunk=self.config.chunk,
            reset=reset,
            execution=self.config.execution,
        )
        # [B, H, K, V] with features as K: back by the tokens of this call.
        turned = rotate(carry.state.swapaxes(2, 3), -positions[:, -1:], self.rope_base)
        carry = LinearCarry(turned.swapaxes(2, 3), None)
        y = self.norm(y).reshape(batch, length, -1) * jax.nn.silu(self.output_gate(x))
        return self.output(y), RecurrentState(carry, ())
