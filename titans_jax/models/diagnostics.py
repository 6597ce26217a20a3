"""What the memory of every layer does at each token of a sequence, as it does in the model.

The model is walked layer by layer beside its own forward pass, which knows nothing of it. What each layer's memory is
given goes through that memory once more, by its `diagnostics`.
"""

from __future__ import annotations

from typing import Any, cast

import jax
from flax import nnx

from titans_jax.memory.diagnostics import Diagnostics
from titans_jax.models.language_model import Titans
from titans_jax.models.mixer import MemoryMixer
from titans_jax.typing import Array, Bool, Flags, Int


def model_diagnostics(
    model: Titans, tokens: Int[Array, "B T"], *, reset: Bool[Array, "B T"] | None = None
) -> Diagnostics:
    """The diagnostics of every layer's memory while the model reads a sequence from its start.

    Token by token, and so as slow as the "sequential" execution.

    Args:
        model: of a variant with memories.
        tokens: token ids.
        reset: True where a document starts, at the first token of a chunk (of a segment, for MAC).

    Returns:
        Fields ``[L, B, T, H]``.

    Raises:
        ValueError: if the model has no memory.
    """
    if not model.config.has_memory:
        raise ValueError(f"model must have memories, got a {model.config.variant}")
    graph, parameters = nnx.split(model.layers)

    def layer(x: Array, layer_parameters: Any) -> tuple[Array, Diagnostics]:
        block = nnx.merge(graph, layer_parameters)
        mixer = cast(MemoryMixer, block.mixer)
        seen, prefix = mixer.memory_inputs(x, reset)
        found = mixer.memory.diagnostics(seen, prefix=prefix, reset=reset)
        return block(x, None, Flags(reset=reset))[0], found

    return jax.lax.scan(layer, model.embed(tokens), parameters)[1]
