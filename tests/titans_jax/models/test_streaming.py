"""Splitting a sequence anywhere and carrying the state is not splitting it; decoding is training."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tests.titans_jax.models.tiny_models import (
    BATCH,
    KINDS,
    LENGTH,
    SEGMENT,
    VARIANTS,
    forward,
    initial_state,
    random_tokens,
)
from tests.tolerances import OUTPUT_F64, STATE_F64, assert_close

# Few lengths, so few compilations; 7 is longer than window and segment, so some pieces cross two borders.
PIECES = (1, 4, 7)


def stream(name, tokens, pieces, state=None):
    """Outputs and state of calls on consecutive pieces, then on single tokens to the end."""
    state = initial_state(name) if state is None else state
    outputs, start = [], 0
    while start < tokens.shape[1]:
        size = pieces[len(outputs)] if len(outputs) < len(pieces) else 1
        size = size if start + size <= tokens.shape[1] else 1
        logits, state = forward(name, tokens[:, start : start + size], state)
        outputs.append(logits)
        start += size
    return jnp.concatenate(outputs, axis=1), state


@pytest.mark.parametrize("name", KINDS)
@example(pieces=[], seed=0)  # token by token
@given(pieces=st.lists(st.sampled_from(PIECES), max_size=LENGTH), seed=st.integers(0, 100))
def test_any_split_equals_the_whole(name, pieces, seed):
    tokens = random_tokens(seed)
    whole, _ = forward(name, tokens)
    split, _ = stream(name, tokens, pieces)
    assert_close(split, whole, OUTPUT_F64)


@pytest.mark.parametrize("name", ["mac", "mag", "lmm", "windowed_transformer"])
def test_a_state_from_training_continues(name):
    """The state of a first call without a state, at every place in chunk and segment."""
    tokens = random_tokens(length=LENGTH + 7)
    _, state = forward(name, tokens[:, :LENGTH])
    continued, end = stream(name, tokens[:, LENGTH:], (1, 4), state)
    decoded, decoded_end = stream(name, tokens, ())
    assert_close(continued, decoded[:, LENGTH:], OUTPUT_F64)
    assert_close(seen(end), seen(decoded_end), STATE_F64)


def seen(state):
    """The state with what no token can see set to zero: free slots of MAC's segment cache."""
    if not hasattr(state, "cache"):
        return state
    keys, values, visible = state.cache  # [L B H 2 C K], [L B C]
    keys, values = (jnp.where(visible[:, :, None, None, :, None], x, 0) for x in (keys, values))
    return state._replace(cache=state.cache._replace(keys=keys, values=values))


@pytest.mark.parametrize("name", KINDS)
def test_sequences_of_a_batch_may_be_at_different_places(name):
    """States are sliced and joined by batch: one sequence three tokens ahead of the other."""
    tokens = random_tokens(length=LENGTH)
    whole, _ = forward(name, tokens)
    _, ahead = stream(name, tokens[:, :5], (4, 1))
    _, behind = stream(name, tokens[:, :2], (1, 1))
    joined = jax.tree.map(lambda a, b: jnp.concatenate([a[:, :1], b[:, 1:]], axis=1), ahead, behind)
    rest = jnp.stack([tokens[0, 5:12], tokens[1, 2:9]])
    logits, _ = forward(name, rest, joined)
    assert_close(logits[0], whole[0, 5:12], OUTPUT_F64)
    assert_close(logits[1], whole[1, 2:9], OUTPUT_F64)


@pytest.mark.parametrize("name", ["mac", "mag"])
def test_a_document_starts_within_a_carried_call(name):
    """At a place where the running segment, or the chunk, is complete; and the next call knows."""
    tokens = random_tokens()
    reset = jnp.zeros(tokens.shape, jnp.bool_).at[0, SEGMENT].set(True)
    whole = jnp.ones(tokens.shape, jnp.bool_)
    expected, _ = forward(name, tokens, None, whole, reset)
    _, state = stream(name, tokens[:, :4], (4,))
    logits, state = forward(name, tokens[:, 4:8], state, None, reset[:, 4:8])
    assert_close(logits, expected[:, 4:8], OUTPUT_F64)
    logits, _ = forward(name, tokens[:, 8:12], state)  # the window reaches back to place 4
    assert_close(logits, expected[:, 8:12], OUTPUT_F64)


def test_a_full_cache_says_so():
    tokens = random_tokens()
    _, state = forward("transformer", tokens[:, :7], initial_state("transformer"))
    _, state = forward("transformer", tokens[:, 7:14], state)
    logits, state = forward("transformer", tokens[:, 14:15], state)
    assert np.isfinite(logits).all()
    overflowing, state = forward("transformer", tokens[:, :4], state)
    assert np.isnan(overflowing).all()
    with pytest.raises(ValueError, match=r"max_length is 16, but 17 tokens"):
        forward("transformer", random_tokens(length=LENGTH + 1), initial_state("transformer"))


def test_state_leaves_are_layers_then_batch():
    for name in VARIANTS:
        for leaf in jax.tree.leaves(initial_state(name)):
            assert leaf.shape[:2] == (2, BATCH)


@pytest.mark.parametrize("name", VARIANTS)
def test_the_state_does_not_grow(name):
    state = initial_state(name)
    after = jax.eval_shape(lambda: forward(name, random_tokens(length=1), state)[1])
    shapes = [(leaf.shape, leaf.dtype) for leaf in jax.tree.leaves(state)]
    assert [(leaf.shape, leaf.dtype) for leaf in jax.tree.leaves(after)] == shapes
