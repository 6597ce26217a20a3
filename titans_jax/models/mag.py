"""MAG, memory as gate: sliding-window attention and the memory side by side (paper, Eq. 26-28).

x~ = [p || n], n = norm(x);  y = n + SW-Attn(x~);  x <- x + W_O [y (x) Memory(x~)]

y has the residual connection that the paper has "in all blocks" (4.4), as in mac.py and for its reason.
"""

from __future__ import annotations

from typing import NamedTuple

from flax import nnx

from titans_jax.config import TitansConfig
from titans_jax.layers.norms import RMSNorm
from titans_jax.layers.persistent import PersistentTokens
from titans_jax.layers.self_attention import AttentionState, SelfAttention
from titans_jax.memory.layer import NeuralMemory, NeuralMemoryState
from titans_jax.models.combine import GatedCombination
from titans_jax.registry import registered
from titans_jax.typing import NO_FLAGS, Array, Flags, Float, TokenFlags


@registered
class MAGState(NamedTuple):
    """State of one layer's stream."""

    memory: NeuralMemoryState
    attention: AttentionState


class MemoryAsGate(nnx.Module):
    """Sequence layer of the MAG variant."""

    def __init__(self, config: TitansConfig, *, rngs: nnx.Rngs):
        """Makes the norm, the persistent tokens, the two branches and what joins them.

        Args:
            config: the model's configuration.
            rngs: source of the initial parameters.
        """
        dim, dtype = config.dim, config.activation_dtype
        self.norm = RMSNorm(dim, dtype, rngs=rngs)
        self.persistent = PersistentTokens(config.persistent_tokens, dim, dtype, rngs=rngs)
        self.attention = SelfAttention(
            dim, config.num_heads, config.window, config.rope_base, dtype, rngs=rngs
        )
        self.memory = NeuralMemory(dim, config.memory, project_output=False, dtype=dtype, rngs=rngs)
        self.combination = GatedCombination(config, rngs=rngs)

    def init_state(self, batch_size: int, max_length: int | None) -> MAGState:
        """The memory after the persistent tokens, and an empty window."""
        return MAGState(
            memory=self.memory.init_state(batch_size, self.norm(self.persistent())),
            attention=self.attention.init_state(batch_size, max_length),
        )

    def memory_inputs(
        self, x: Float[Array, "B T D"], reset: TokenFlags | None
    ) -> tuple[Float[Array, "B T D"], Float[Array, "P D"] | None]:
        """See `MemoryMixer`; what is given does not depend on documents."""
        del reset
        return self.norm(x), self.norm(self.persistent())

    def __call__(
        self,
        x: Float[Array, "B T D"],
        state: MAGState | None = None,
        flags: Flags = NO_FLAGS,
    ) -> tuple[Float[Array, "B T D"], MAGState]:
        """Adds the gated attention to the residual stream.

        Args:
            x: residual stream.
            state: state after the tokens before `x`; None at the start of a stream.
            flags: see `Flags`.

        Returns:
            The residual stream and the new state.
        """
        memory_state, attention_state = (None, None) if state is None else state
        prefix = self.norm(self.persistent())
        inputs = self.norm(x)
        attended, attention_state = self.attention(
            inputs, prefix, attention_state, mask=flags.mask, reset=flags.reset
        )
        remembered, memory_state = self.memory(
            inputs,
            memory_state,
            prefix=prefix,
            **flags._asdict(),
        )
        return x + self.combination(inputs + attended, remembered), MAGState(
            memory_state, attention_state
        )
