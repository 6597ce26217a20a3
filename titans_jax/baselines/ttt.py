"""TTT-Linear and TTT-MLP: Sun et al. 2024 (arXiv 2407.04620), Eq. 1 with section 2.4's mini-batches and 2.7's f.

W_t = W_{t-1} - eta_t grad l(W_{t'}; x_t), t' the start of the mini-batch;  f(x; W) = x + LayerNorm(f_res(x; W));
eta_t = eta_base sigmoid(theta_lr . x_t).  This is the neural memory with a `residual` network, no momentum and no
forgetting, whose chunk is the mini-batch of 16, and so runs by it.

What differs from the published layer: LayerNorm and f_res have no bias; f_res of TTT-MLP has SiLU, not GELU, between
its two matrices; queries and keys are l2-normalised after their convolutions, so that a gradient is divided by the
mini-batch alone (the published code divides by the head's features too, and by the tokens so far rather than by
all 16); the reads' norm is an RMS norm and their gate a SiLU.
"""

from __future__ import annotations

from flax import nnx

from titans_jax.config import MemoryConfig, TitansConfig
from titans_jax.memory.layer import NeuralMemory, NeuralMemoryState
from titans_jax.typing import Array, Bool, Float


class TTTLinear(nnx.Module):
    """TTT with a matrix as its hidden state."""

    #: Layers of f_res, and half of eta_base: the published gradient is that of half the squared error.
    depth, step_scale = 1, 0.5

    def __init__(self, config: TitansConfig, *, rngs: nnx.Rngs):
        """Makes the memory that is the layer.

        Args:
            config: the model's configuration.
            rngs: source of the initial parameters.
        """
        recurrence = config.recurrence
        memory = MemoryConfig(
            num_heads=recurrence.num_heads,
            network="residual",
            depth=self.depth,
            expansion=4,
            chunk=recurrence.mini_batch,
            momentum=False,
            forget=False,
            conv_width=recurrence.conv_width,
            step_scale=self.step_scale,
            step_bias=recurrence.step_bias,
            anchor="chunk",
            bound="none",
            lower_step=1.0,
            weights_start="plain",
            execution=recurrence.execution,
        )
        self.memory = NeuralMemory(
            config.dim,
            memory,
            residual_scale=config.residual_scale,
            dtype=config.activation_dtype,
            rngs=rngs,
        )

    def init_state(self, batch_size: int) -> NeuralMemoryState:
        """The state before a sequence."""
        return self.memory.init_state(batch_size)

    def __call__(
        self,
        x: Float[Array, "B T D"],
        state: NeuralMemoryState | None,
        mask: Bool[Array, "B T"] | None,
        reset: Bool[Array, "B T"] | None,
    ) -> tuple[Float[Array, "B T D"], NeuralMemoryState]:
        """The outputs, and the state after the last token."""
        return self.memory(x, state, mask=mask, reset=reset)


class TTTMLP(TTTLinear):
    """TTT with a perceptron of two layers as its hidden state."""

    depth, step_scale = 2, 0.05
