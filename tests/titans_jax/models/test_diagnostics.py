"""The diagnostics of a whole model are those of the memories that its forward pass writes."""

import jax
import jax.numpy as jnp
import pytest
from flax import nnx

from tests.titans_jax.models.tiny_models import (
    BATCH,
    LENGTH,
    SEGMENT,
    forward,
    random_tokens,
    tiny_model,
)
from tests.tolerances import STATE_F64, assert_close
from titans_jax.memory import MemoryState
from titans_jax.models.diagnostics import model_diagnostics


@pytest.mark.parametrize("variant", ["mac", "lmm"])
def test_norms_end_where_the_models_memories_do(variant):
    tokens = random_tokens()
    reset = jnp.zeros((BATCH, LENGTH), bool).at[1, SEGMENT].set(True)
    graph, parameters = tiny_model(variant)
    found = jax.jit(lambda p: model_diagnostics(nnx.merge(graph, p), tokens, reset=reset))(
        parameters
    )
    _, state = forward(variant, tokens, reset=reset)
    memories = jax.tree.leaves(state, is_leaf=lambda node: isinstance(node, MemoryState))
    (memory,) = (node for node in memories if isinstance(node, MemoryState))
    for actual, weights in (
        (found.weights_norm, memory.weights),
        (found.momentum_norm, memory.momentum),
    ):
        squares = (jnp.sum(leaf**2, axis=(-2, -1)) for leaf in jax.tree.leaves(weights))
        assert_close(actual[:, :, -1], jnp.sqrt(sum(squares)), STATE_F64)
    assert found.alpha.shape == (2, BATCH, LENGTH, 2)


def test_a_model_without_memory_is_refused():
    graph, parameters = tiny_model("transformer")
    with pytest.raises(ValueError, match="must have memories"):
        model_diagnostics(nnx.merge(graph, parameters), random_tokens())
