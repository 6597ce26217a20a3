"""MAL, memory as layer: the memory first, sliding-window attention on what it gives (paper, Eq. 29-31).

x~ = [p || norm(x)];  [p || x] <- [p || x] + Memory(x~);  x <- x + W_O SW-Attn(norm([p || x]))
"""

from __future__ import annotations

from typing import NamedTuple

from flax import nnx

from titans_jax.config import TitansConfig
from titans_jax.layers.linear import linear
from titans_jax.layers.norms import RMSNorm
from titans_jax.layers.persistent import PersistentTokens
from titans_jax.layers.self_attention import AttentionState, SelfAttention
from titans_jax.memory.layer import NeuralMemory, NeuralMemoryState
from titans_jax.registry import registered
from titans_jax.typing import NO_FLAGS, Array, Flags, Float, TokenFlags


@registered
class MALState(NamedTuple):
    """State of one layer's stream."""

    memory: NeuralMemoryState
    attention: AttentionState


class MemoryAsLayer(nnx.Module):
    """Sequence layer of the MAL variant."""

    def __init__(self, config: TitansConfig, *, rngs: nnx.Rngs):
        """Makes the two norms, the persistent tokens, the memory and the attention.

        Args:
            config: the model's configuration.
            rngs: source of the initial parameters.
        """
        dim, dtype, scale = config.dim, config.activation_dtype, config.residual_scale
        self.memory_norm = RMSNorm(dim, dtype, rngs=rngs)
        self.persistent = PersistentTokens(config.persistent_tokens, dim, dtype, rngs=rngs)
        self.memory = NeuralMemory(dim, config.memory, residual_scale=scale, dtype=dtype, rngs=rngs)
        self.attention_norm = RMSNorm(dim, dtype, rngs=rngs)
        self.attention = SelfAttention(
            dim, config.num_heads, config.window, config.rope_base, dtype, rngs=rngs
        )
        self.output = linear(dim, dim, dtype, scale=scale, rngs=rngs)

    def init_state(self, batch_size: int, max_length: int | None) -> MALState:
        """The memory after the persistent tokens, and an empty window."""
        return MALState(
            memory=self.memory.init_state(batch_size, self.memory_norm(self.persistent())),
            attention=self.attention.init_state(batch_size, max_length),
        )

    def memory_inputs(
        self, x: Float[Array, "B T D"], reset: TokenFlags | None
    ) -> tuple[Float[Array, "B T D"], Float[Array, "P D"] | None]:
        """See `MemoryMixer`; what is given does not depend on documents."""
        del reset
        return self.memory_norm(x), self.memory_norm(self.persistent())

    def __call__(
        self,
        x: Float[Array, "B T D"],
        state: MALState | None = None,
        flags: Flags = NO_FLAGS,
    ) -> tuple[Float[Array, "B T D"], MALState]:
        """Adds the memory's outputs, then the attention's, to the residual stream.

        Args:
            x: residual stream.
            state: state after the tokens before `x`; None at the start of a stream.
            flags: see `Flags`.

        Returns:
            The residual stream and the new state.
        """
        memory_state, attention_state = (None, None) if state is None else state
        persistent = self.persistent()
        prefix = self.memory_norm(persistent)
        remembered, memory_state = self.memory(
            self.memory_norm(x),
            memory_state,
            prefix=prefix,
            **flags._asdict(),
        )
        x = x + remembered
        # The persistent tokens go through the memory like any others before the attention sees them.
        persistent = persistent + self.memory.prefix_outputs(prefix)
        attended, attention_state = self.attention(
            self.attention_norm(x),
            self.attention_norm(persistent),
            attention_state,
            mask=flags.mask,
            reset=flags.reset,
        )
        return x + self.output(attended), MALState(memory_state, attention_state)
