"""LMM: the neural memory alone as the sequence layer, without attention (paper, section 3).

x <- x + Memory(norm(x)); the memory has written the persistent tokens before the first token (Eq. 19).
"""

from __future__ import annotations

from flax import nnx

from titans_jax.config import TitansConfig
from titans_jax.layers.norms import RMSNorm
from titans_jax.layers.persistent import PersistentTokens
from titans_jax.memory.layer import NeuralMemory, NeuralMemoryState
from titans_jax.typing import NO_FLAGS, Array, Flags, Float, TokenFlags


class LongTermMemory(nnx.Module):
    """Sequence layer of the LMM variant."""

    def __init__(self, config: TitansConfig, *, rngs: nnx.Rngs):
        """Makes the norm, the persistent tokens and the memory.

        Args:
            config: the model's configuration.
            rngs: source of the initial parameters.
        """
        dtype = config.activation_dtype
        self.norm = RMSNorm(config.dim, dtype, rngs=rngs)
        self.persistent = PersistentTokens(config.persistent_tokens, config.dim, dtype, rngs=rngs)
        self.memory = NeuralMemory(
            config.dim,
            config.memory,
            residual_scale=config.residual_scale,
            dtype=dtype,
            rngs=rngs,
        )

    def init_state(self, batch_size: int, max_length: int | None) -> NeuralMemoryState:
        """The memory after the persistent tokens; `max_length` does not matter."""
        del max_length
        return self.memory.init_state(batch_size, self.norm(self.persistent()))

    def memory_inputs(
        self, x: Float[Array, "B T D"], reset: TokenFlags | None
    ) -> tuple[Float[Array, "B T D"], Float[Array, "P D"] | None]:
        """See `MemoryMixer`; what is given does not depend on documents."""
        del reset
        return self.norm(x), self.norm(self.persistent())

    def __call__(
        self,
        x: Float[Array, "B T D"],
        state: NeuralMemoryState | None = None,
        flags: Flags = NO_FLAGS,
    ) -> tuple[Float[Array, "B T D"], NeuralMemoryState]:
        """Adds the memory's outputs to the residual stream.

        Args:
            x: residual stream.
            state: memory after the tokens before `x`; None at the start of a stream.
            flags: see `Flags`.

        Returns:
            The residual stream and the new state.
        """
        prefix = self.norm(self.persistent())
        out, state = self.memory(
            self.norm(x),
            state,
            prefix=prefix,
            **flags._asdict(),
        )
        return x + out, state
