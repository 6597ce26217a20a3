"""Hybrids of recurrences and sliding-window attention, each sequence layer followed by a SwiGLU.

samba               Mamba-2, window attention        Ren et al. 2024 (arXiv 2406.07522), with Mamba-2 for Mamba
gated_deltanet_h2   Mamba-2, Gated DeltaNet, window attention        Yang et al. 2024 (arXiv 2412.06464, section 3.4)

One block of the model is one round of these; the SwiGLU after the attention is the block's own.
"""

from __future__ import annotations

import dataclasses
from typing import Any

from flax import nnx

from titans_jax.baselines import RecurrentMixer
from titans_jax.config import TitansConfig
from titans_jax.layers.feed_forward import SwiGLU
from titans_jax.layers.norms import RMSNorm
from titans_jax.models.transformer import TransformerAttention
from titans_jax.typing import NO_FLAGS, Array, Flags, Float


class Hybrid(nnx.Module):
    """One round of a hybrid."""

    def __init__(self, config: TitansConfig, *, rngs: nnx.Rngs):
        """Makes the recurrences with their feed-forward layers, and the attention.

        Args:
            config: the model's configuration.
            rngs: source of the initial parameters.
        """
        names, dtype = config.recurrences, config.activation_dtype
        self.recurrences = nnx.List([RecurrentMixer(config, name=n, rngs=rngs) for n in names])
        self.norms: Any = nnx.List([])
        self.feed_forwards: Any = nnx.List([])
        if config.feed_forward:
            for _ in names:
                self.norms.append(RMSNorm(config.dim, dtype, rngs=rngs))
                self.feed_forwards.append(
                    SwiGLU(
                        config.dim,
                        config.feed_forward,
                        dtype,
                        residual_scale=config.residual_scale,
                        rngs=rngs,
                    )
                )
        plain = dataclasses.replace(config, persistent_tokens=0)
        self.attention = TransformerAttention(plain, rngs=rngs)

    def init_state(self, batch_size: int, max_length: int | None) -> tuple[Any, ...]:
        """The states of the recurrences and of the attention."""
        recurrent = tuple(r.init_state(batch_size, max_length) for r in self.recurrences)
        return (*recurrent, self.attention.init_state(batch_size, max_length))

    def __call__(
        self,
        x: Float[Array, "B T D"],
        state: tuple[Any, ...] | None = None,
        flags: Flags = NO_FLAGS,
    ) -> tuple[Float[Array, "B T D"], tuple[Any, ...]]:
        """Applies the round.

        Args:
            x: residual stream.
            state: after the tokens before `x`; None at the start of a stream.
            flags: see `Flags`.

        Returns:
            The residual stream and the new state.
        """
        count = len(self.recurrences)
        before = (None,) * (count + 1) if state is None else state
        after = []
        for i in range(count):
            x, new = self.recurrences[i](x, before[i], flags)
            after.append(new)
            if len(self.feed_forwards):
                x = x + self.feed_forwards[i](self.norms[i](x))
        x, new = self.attention(x, before[-1], flags)
        return x, (*after, new)
