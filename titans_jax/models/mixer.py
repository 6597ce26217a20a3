"""What every sequence layer of a model is: it adds to the residual stream, and carries a state through it."""

from __future__ import annotations

from typing import Any, Protocol

from titans_jax.memory.layer import NeuralMemory
from titans_jax.typing import Array, Flags, Float, TokenFlags


class Mixer(Protocol):
    """A sequence layer. Any split of a sequence, with the state carried, gives what the whole gives."""

    def init_state(self, batch_size: int, max_length: int | None) -> Any:
        """The state before the first token.

        Args:
            batch_size: B.
            max_length: longest stream; only full attention needs it.
        """

    def __call__(
        self, x: Float[Array, "B T D"], state: Any, flags: Flags
    ) -> tuple[Float[Array, "B T D"], Any]:
        """Adds the layer's outputs to the residual stream.

        Args:
            x: residual stream.
            state: after the tokens before ``x``; None at the start of a stream.
            flags: what is said of the tokens.

        Returns:
            The residual stream and the new state.
        """


class MemoryMixer(Mixer, Protocol):
    """A sequence layer with a neural memory."""

    memory: NeuralMemory

    def memory_inputs(
        self, x: Float[Array, "B T D"], reset: TokenFlags | None
    ) -> tuple[Float[Array, "B T D"], Float[Array, "P D"] | None]:
        """What the memory is given at each token of a sequence from its start, and its persistent tokens.

        Args:
            x: residual stream.
            reset: True where a document starts.
        """
