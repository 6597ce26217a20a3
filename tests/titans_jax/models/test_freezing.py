"""Reading without learning, and the promise of an aligned state: both against the general path."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from tests.titans_jax.models.tiny_models import (
    BATCH,
    SEGMENT,
    forward,
    initial_state,
    random_tokens,
    tiny_model,
)
from tests.tolerances import OUTPUT_F64, STATE_F64, assert_close
from titans_jax.config import MemoryConfig
from titans_jax.memory.layer import NeuralMemory

WITH_MEMORY = ("mac", "mag", "lmm")  # MAL has the memory of MAG


@functools.partial(jax.jit, static_argnames=("name", "freeze_memory", "aligned"))
def call(name, parameters, tokens, state, *, freeze_memory=False, aligned=False):
    model = nnx.merge(tiny_model(name)[0], parameters)
    return model(tokens, state, freeze_memory=freeze_memory, aligned=aligned)


def frozen(name, tokens, state):
    return call(name, tiny_model(name)[1], tokens, state, freeze_memory=True)


def memory_of(state):
    """The memory's state of any variant."""
    layer = getattr(state, "memory", state)
    return getattr(layer, "memory", layer)


@pytest.mark.parametrize("name", WITH_MEMORY)
def test_a_frozen_memory_does_not_move_and_matters(name):
    tokens = random_tokens()
    _, start = forward(name, tokens[:, :4], initial_state(name))
    logits, end = frozen(name, tokens[:, 4:11], start)
    learning, _ = forward(name, tokens[:, 4:11], start)
    assert_close(memory_of(end).weights, memory_of(start).weights, 0.0)
    assert_close(memory_of(end).momentum, memory_of(start).momentum, 0.0)
    assert jnp.max(jnp.abs(logits - learning)) > 1e-4


@pytest.mark.parametrize("name", WITH_MEMORY)
def test_frozen_calls_may_be_split_anywhere(name):
    """From the middle of a chunk, across chunks and segments, and learning goes on afterwards."""
    tokens = random_tokens(length=11)
    _, start = forward(name, tokens[:, :4], initial_state(name))
    whole, end = frozen(name, tokens[:, 4:], start)
    first, state = frozen(name, tokens[:, 4:8], start)
    singles = []
    for i in range(8, 11):
        logits, state = frozen(name, tokens[:, i : i + 1], state)
        singles.append(logits)
    assert_close(jnp.concatenate([first, *singles], axis=1), whole, OUTPUT_F64)
    after_split, _ = forward(name, tokens[:, :4], state)
    after_whole, _ = forward(name, tokens[:, :4], end)
    assert_close(after_split, after_whole, OUTPUT_F64)


@pytest.mark.parametrize("gates", ["token", "chunk"])
def test_reading_frozen_equals_masking_every_write(gates):
    """Without resets fast weights are only read; with them every token is masked in the scan."""
    layer = NeuralMemory(
        8,
        MemoryConfig(num_heads=2, chunk=3, gates=gates),
        dtype=jnp.float64,
        rngs=nnx.Rngs(0),
    )
    x = jax.random.normal(jax.random.key(0), (BATCH, 9, 8), jnp.float64)
    _, state = layer(x[:, :5])
    never = jnp.zeros((BATCH, 4), jnp.bool_)
    read, read_state = layer(x[:, 5:], state, freeze=True)
    masked, masked_state = layer(x[:, 5:], state, freeze=True, reset=never)
    assert_close(read, masked, OUTPUT_F64)
    assert_close(read_state, masked_state, STATE_F64)


@pytest.mark.parametrize("name", ["mac", "lmm"])
def test_an_aligned_state_gives_what_any_state_gives(name):
    tokens = random_tokens()
    _, start = forward(name, tokens[:, :SEGMENT], initial_state(name))
    expected, _ = forward(name, tokens[:, SEGMENT:], start)
    logits, end = call(name, tiny_model(name)[1], tokens[:, SEGMENT:], start, aligned=True)
    assert_close(logits, expected, OUTPUT_F64)
    _, general = forward(name, tokens[:, SEGMENT:], start)
    following, _ = forward(name, tokens[:, :7], end)
    assert_close(following, forward(name, tokens[:, :7], general)[0], OUTPUT_F64)


def test_a_transformer_has_no_memory_to_freeze():
    with pytest.raises(ValueError, match="freeze_memory must be False for a transformer"):
        frozen("transformer", random_tokens(), None)
    assert np.isfinite(forward("transformer", random_tokens())[0]).all()
