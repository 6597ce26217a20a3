"""One block of the language model: a sequence layer of the chosen variant, then a feed-forward layer."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from flax import nnx

from titans_jax.baselines.mixer import LAYERS, RecurrentMixer
from titans_jax.config import HYBRIDS, TitansConfig
from titans_jax.layers.feed_forward import SwiGLU
from titans_jax.layers.norms import RMSNorm
from titans_jax.models.hybrid import Hybrid
from titans_jax.models.lmm import LongTermMemory
from titans_jax.models.mac import MemoryAsContext
from titans_jax.models.mag import MemoryAsGate
from titans_jax.models.mal import MemoryAsLayer
from titans_jax.models.mixer import Mixer
from titans_jax.models.transformer import TransformerAttention
from titans_jax.typing import NO_FLAGS, Array, Flags, Float

#: Sequence layers (mixer.py) by variant.
MIXERS: dict[str, Callable[..., Mixer]] = {
    "mac": MemoryAsContext,
    "mag": MemoryAsGate,
    "mal": MemoryAsLayer,
    "lmm": LongTermMemory,
    "transformer": TransformerAttention,
    **dict.fromkeys(LAYERS, RecurrentMixer),
    **dict.fromkeys(HYBRIDS, Hybrid),
}


class Block(nnx.Module):
    """x <- Mixer(x);  x <- x + SwiGLU(norm(x)). Each mixer adds to the residual stream itself."""

    def __init__(self, config: TitansConfig, *, rngs: nnx.Rngs):
        """Makes the sequence layer and, unless `config.feed_forward` is 0, the feed-forward layer.

        Args:
            config: the model's configuration.
            rngs: source of the initial parameters.
        """
        dim, dtype = config.dim, config.activation_dtype
        self.mixer = MIXERS[config.variant](config, rngs=rngs)
        if config.feed_forward:
            self.norm = RMSNorm(dim, dtype, rngs=rngs)
            self.feed_forward = SwiGLU(
                dim, config.feed_forward, dtype, residual_scale=config.residual_scale, rngs=rngs
            )
        self.has_feed_forward = config.feed_forward > 0

    def init_state(self, batch_size: int, max_length: int | None) -> Any:
        """The sequence layer's state before the first token."""
        return self.mixer.init_state(batch_size, max_length)

    def __call__(
        self,
        x: Float[Array, "B T D"],
        state: Any = None,
        flags: Flags = NO_FLAGS,
    ) -> tuple[Float[Array, "B T D"], Any]:
        """Applies the block.

        Args:
            x: residual stream.
            state: state after the tokens before `x`; None at the start of a stream.
            flags: see `Flags`.

        Returns:
            The residual stream and the new state.
        """
        x, state = self.mixer(x, state, flags)
        if self.has_feed_forward:
            x = x + self.feed_forward(self.norm(x))
        return x, state
