"""DeltaNet and Gated DeltaNet.

DeltaNet, Yang et al. 2024 (arXiv 2406.06484): q, k = l2(SiLU(conv(x W))), v = SiLU(conv(x W)), beta = sigmoid(x W),
S_t = (I - beta_t k_t^T k_t) S_{t-1} + beta_t k_t^T v_t, y = W_O RMSNorm(q_t S_t).

Gated DeltaNet, Yang et al. 2024 (arXiv 2412.06464, Eq. 10): S_{t-1} decays by Mamba-2's gate a_t first, and the
normalised reads are gated by SiLU(x W_G); keys of 3/4 D and values of 3/2 D features.

With `step_bias`, which is not published, beta = sigmoid(x W + bias), and the learned bias begins there.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import nnx

from titans_jax.baselines.delta import DeltaTokens, delta_step
from titans_jax.baselines.projection import (
    DecayGate,
    Projection,
    RecurrentState,
    apply_per_head,
    per_head,
    zero_masked,
    zero_state,
)
from titans_jax.baselines.scan import chunk_scan
from titans_jax.config import TitansConfig
from titans_jax.layers.linear import linear
from titans_jax.layers.norms import RMSNorm, l2_normalise, statistics_dtype
from titans_jax.typing import Array, Bool, Float


class DeltaNet(nnx.Module):
    """The DeltaNet layer; with ``gated`` the Gated DeltaNet layer."""

    gated = False

    def __init__(self, config: TitansConfig, *, rngs: nnx.Rngs):
        """Makes the projections.

        Args:
            config: the model's configuration.
            rngs: source of the initial parameters.
        """
        dim, dtype, self.config = config.dim, config.activation_dtype, config.recurrence
        self.dtype, heads, width = dtype, self.config.num_heads, self.config.conv_width
        self.keys, self.values = config.recurrence_features(
            "gated_deltanet" if self.gated else "deltanet"
        )
        self.query = Projection(dim, self.keys, heads, dtype, conv_width=width, rngs=rngs)
        self.key = Projection(dim, self.keys, heads, dtype, conv_width=width, rngs=rngs)
        self.value = Projection(dim, self.values, heads, dtype, conv_width=width, rngs=rngs)
        self.beta_kernel = per_head(dim, heads, dtype, rngs)
        bias = jnp.full((heads,), self.config.step_bias, statistics_dtype(dtype))
        self.beta_bias = nnx.Param(bias) if self.config.step_bias else None
        self.decay = DecayGate(dim, heads, dtype, rngs=rngs) if self.gated else None
        self.norm = RMSNorm(self.values // heads, dtype, rngs=rngs)
        self.output_gate = linear(dim, self.values, dtype, rngs=rngs) if self.gated else None
        self.output = linear(self.values, dim, dtype, scale=config.residual_scale, rngs=rngs)

    def init_state(self, batch_size: int) -> RecurrentState:
        """The state before a sequence."""
        heads = self.config.num_heads
        shape = (heads, self.keys // heads, self.values // heads)
        projections = (self.query, self.key, self.value)
        return RecurrentState(
            zero_state(batch_size, *shape, self.dtype),
            tuple(p.init_tail(batch_size) for p in projections),
        )

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
        beta = apply_per_head(x, self.beta_kernel)
        if self.beta_bias is not None:
            beta = beta + self.beta_bias[...]
        log_keep = None if self.decay is None else zero_masked(self.decay(x)[0], mask)
        tokens = DeltaTokens(
            l2_normalise(q),
            zero_masked(l2_normalise(k), mask),
            zero_masked(v, mask),
            zero_masked(jax.nn.sigmoid(beta), mask),
            log_keep,
        )
        carry, y = chunk_scan(
            delta_step,
            state.carry,
            tokens,
            chunk=self.config.chunk,
            reset=reset,
            execution=self.config.execution,
        )
        y = self.norm(y).reshape(*x.shape[:2], -1)
        if self.output_gate is not None:
            y = y * jax.nn.silu(self.output_gate(x))
        return self.output(y), RecurrentState(carry, tails)


class GatedDeltaNet(DeltaNet):
    """The Gated DeltaNet layer."""

    gated = True
