"""The recurrent baselines as sequence layers of the language model: x <- x + Layer(norm(x))."""

from __future__ import annotations

from typing import Any

from flax import nnx

from titans_jax.baselines.deltanet import DeltaNet, GatedDeltaNet
from titans_jax.baselines.gla import GatedLinearAttention
from titans_jax.baselines.linear_attention import LinearAttention
from titans_jax.baselines.mamba2 import Mamba2
from titans_jax.baselines.retnet import Retention
from titans_jax.baselines.ttt import TTTMLP, TTTLinear
from titans_jax.config import TitansConfig
from titans_jax.layers.norms import RMSNorm
from titans_jax.typing import NO_FLAGS, Array, Flags, Float

LAYERS: dict[str, Any] = {
    "linear_attention": LinearAttention,
    "retnet": Retention,
    "gla": GatedLinearAttention,
    "mamba2": Mamba2,
    "deltanet": DeltaNet,
    "gated_deltanet": GatedDeltaNet,
    "ttt_linear": TTTLinear,
    "ttt_mlp": TTTMLP,
}


class RecurrentMixer(nnx.Module):
    """Sequence layer of a recurrent baseline."""

    def __init__(self, config: TitansConfig, *, name: str | None = None, rngs: nnx.Rngs):
        """Makes the norm and the recurrence's layer.

        Args:
            config: the model's configuration.
            name: of the recurrence; None for `config.variant`.
            rngs: source of the initial parameters.
        """
        self.norm = RMSNorm(config.dim, config.activation_dtype, rngs=rngs)
        self.layer = LAYERS[name or config.variant](config, rngs=rngs)

    def init_state(self, batch_size: int, max_length: int | None) -> Any:
        """The recurrence's state before the first token; `max_length` does not matter."""
        del max_length
        return self.layer.init_state(batch_size)

    def __call__(
        self,
        x: Float[Array, "B T D"],
        state: Any = None,
        flags: Flags = NO_FLAGS,
    ) -> tuple[Float[Array, "B T D"], Any]:
        """Adds the recurrence's outputs to the residual stream.

        Args:
            x: residual stream.
            state: after the tokens before `x`; None at the start of a stream.
            flags: see `Flags`.

        Returns:
            The residual stream and the new state.
        """
        if state is None and not isinstance(self.layer, TTTLinear):
            state = self.layer.init_state(x.shape[0])
        out, state = self.layer(self.norm(x), state, flags.mask, flags.reset)
        return x + out, state
