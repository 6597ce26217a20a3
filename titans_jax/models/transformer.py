"""Transformer++: rotary causal attention, full or over a sliding window; the baseline.

x <- x + W_O Attn(norm(x)), followed in the block by the same SwiGLU feed-forward as every Titans.
"""

from __future__ import annotations

from flax import nnx

from titans_jax.config import TitansConfig
from titans_jax.layers.attention import FullState, WindowState
from titans_jax.layers.linear import linear
from titans_jax.layers.norms import RMSNorm
from titans_jax.layers.persistent import PersistentTokens
from titans_jax.layers.self_attention import AttentionState, SelfAttention
from titans_jax.typing import NO_FLAGS, Array, Flags, Float


class TransformerAttention(nnx.Module):
    """Sequence layer of the transformer variant."""

    def __init__(self, config: TitansConfig, *, rngs: nnx.Rngs):
        """Makes the norm, the attention and the output projection.

        Args:
            config: the model's configuration.
            rngs: source of the initial parameters.
        """
        dtype = config.activation_dtype
        self.norm = RMSNorm(config.dim, dtype, rngs=rngs)
        self.persistent = PersistentTokens(config.persistent_tokens, config.dim, dtype, rngs=rngs)
        self.attention = SelfAttention(
            config.dim, config.num_heads, config.window, config.rope_base, dtype, rngs=rngs
        )
        self.output = linear(config.dim, config.dim, dtype, scale=config.residual_scale, rngs=rngs)

    def init_state(self, batch_size: int, max_length: int | None) -> WindowState | FullState:
        """An empty cache, see `SelfAttention.init_state`."""
        return self.attention.init_state(batch_size, max_length)

    def __call__(
        self,
        x: Float[Array, "B T D"],
        state: AttentionState | None = None,
        flags: Flags = NO_FLAGS,
    ) -> tuple[Float[Array, "B T D"], AttentionState]:
        """Adds the attention's outputs to the residual stream.

        Args:
            x: residual stream.
            state: cache of the tokens before `x`; None at the start of a stream.
            flags: see `Flags`.

        Returns:
            The residual stream and the new cache.
        """
        prefix = self.norm(self.persistent())
        out, state = self.attention(self.norm(x), prefix, state, mask=flags.mask, reset=flags.reset)
        return x + self.output(out), state
