"""Mamba-2 (SSD): Dao and Gu 2024 (arXiv 2405.21060), section 7 and its recurrence with scalar A per head.

h_t = exp(-dt_t a) h_{t-1} + dt_t B_t^T x_t;  y_t = C_t h_t + skip x_t;  dt_t = softplus(u_t W + bias), a = exp(log_a)
x, B, C = SiLU(conv(u W));  out = W_O RMSNorm(y * SiLU(u W_z)); B and C are shared by the heads of a group.

The published convolution has a bias, ours has none.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import nnx

from titans_jax.baselines.linear import LinearCarry, LinearTokens, linear_step
from titans_jax.baselines.projection import (
    DecayGate,
    Projection,
    RecurrentState,
    zero_masked,
    zero_state,
)
from titans_jax.baselines.scan import chunk_scan
from titans_jax.config import TitansConfig
from titans_jax.layers.linear import linear
from titans_jax.layers.norms import RMSNorm, statistics_dtype
from titans_jax.placement import by_heads
from titans_jax.typing import Array, Bool, Float


class Mamba2(nnx.Module):
    """The Mamba-2 layer."""

    def __init__(self, config: TitansConfig, *, rngs: nnx.Rngs):
        """Makes the projections.

        Args:
            config: the model's configuration.
            rngs: source of the initial parameters.
        """
        dim, dtype, self.config = config.dim, config.activation_dtype, config.recurrence
        self.dtype, heads, groups = dtype, self.config.num_heads, self.config.groups
        width, shared = self.config.conv_width, groups * self.config.state_size
        self.values = config.recurrence_features("mamba2")[1]
        self.query = Projection(dim, shared, groups, dtype, conv_width=width, rngs=rngs)  # C
        self.key = Projection(dim, shared, groups, dtype, conv_width=width, rngs=rngs)  # B
        self.value = Projection(dim, self.values, heads, dtype, conv_width=width, rngs=rngs)  # x
        self.decay = DecayGate(dim, heads, dtype, rngs=rngs)
        self.skip = nnx.Param(jnp.ones((heads,), statistics_dtype(dtype)))
        self.norm = RMSNorm(self.values, dtype, rngs=rngs)
        self.output_gate = linear(dim, self.values, dtype, rngs=rngs)
        self.output = linear(self.values, dim, dtype, scale=config.residual_scale, rngs=rngs)

    def init_state(self, batch_size: int) -> RecurrentState:
        """The state before a sequence."""
        heads = self.config.num_heads
        shape = (heads, self.config.state_size, self.values // heads)
        carry = LinearCarry(zero_state(batch_size, *shape, self.dtype), None)
        projections = (self.query, self.key, self.value)
        return RecurrentState(carry, tuple(p.init_tail(batch_size) for p in projections))

    def __call__(
        self,
        x: Float[Array, "B T D"],
        state: RecurrentState,
        mask: Bool[Array, "B T"] | None,
        reset: Bool[Array, "B T"] | None,
    ) -> tuple[Float[Array, "B T D"], RecurrentState]:
        """The outputs, and the state after the last token."""
        (q, k, v), tails = zip(
            *(
                p(x, tail, mask, reset)
                for p, tail in zip((self.query, self.key, self.value), state.tails, strict=True)
            ),
            strict=True,
        )
        log_keep, step = self.decay(x)
        repeats = self.config.num_heads // self.config.groups
        q, k = (by_heads(jnp.repeat(one, repeats, axis=2), 2) for one in (q, k))
        stepped = (v * step[..., None]).astype(v.dtype)
        tokens = LinearTokens(
            q, zero_masked(k, mask), zero_masked(stepped, mask), zero_masked(log_keep, mask)
        )
        carry, y = chunk_scan(
            linear_step,
            state.carry,
            tokens,
            chunk=self.config.chunk,
            reset=reset,
            execution=self.config.execution,
        )
        y = (y + self.skip[...][:, None] * v).astype(self.dtype).reshape(*x.shape[:2], -1)
        y = self.norm(y * jax.nn.silu(self.output_gate(x)))
        return self.output(y), RecurrentState(carry, tails)
