"""No output sees a later token or another sequence: compared bit for bit, not within a tolerance."""

import jax.numpy as jnp
import numpy as np
import pytest

from tests.titans_jax.models.tiny_models import (
    CHUNK,
    LENGTH,
    SEGMENT,
    VARIANTS,
    VOCABULARY,
    WINDOW,
    forward,
    random_tokens,
)
from tests.tolerances import OUTPUT_F64, assert_close


def changed(tokens, time):
    return tokens.at[0, time].set((tokens[0, time] + 1) % VOCABULARY)


@pytest.mark.parametrize("name", VARIANTS)
def test_a_token_changes_nothing_before_it_and_no_other_sequence(name):
    tokens = random_tokens()
    before, _ = forward(name, tokens)
    for time in range(LENGTH):
        after, _ = forward(name, changed(tokens, time))
        np.testing.assert_array_equal(after[0, :time], before[0, :time])
        np.testing.assert_array_equal(after[1], before[1])
        # The test would pass for a model that does nothing: the token must matter from its place on.
        assert (after[0, time] != before[0, time]).all()


@pytest.mark.parametrize("name", ["mac", "mag", "mal", "lmm"])
def test_memory_reaches_beyond_window_segment_and_chunk(name):
    tokens = random_tokens()
    before, _ = forward(name, tokens)
    after, _ = forward(name, changed(tokens, 0))
    far = 2 * max(CHUNK, SEGMENT, WINDOW)
    assert far < LENGTH
    assert (after[0, far:] != before[0, far:]).all()


def test_a_window_forgets():
    tokens = random_tokens()
    before, _ = forward("windowed_transformer", tokens)
    after, _ = forward("windowed_transformer", changed(tokens, 0))
    reach = 2 * (WINDOW - 1)  # two layers
    assert (after[0, reach] != before[0, reach]).all()
    np.testing.assert_array_equal(after[0, reach + 1 :], before[0, reach + 1 :])


@pytest.mark.parametrize("name", VARIANTS)
def test_documents_and_padding(name):
    """One compilation: resets and a mask together, their parts set and unset by value."""
    tokens = random_tokens()
    start = 2 * SEGMENT  # of the second document: a segment's and a chunk's first token
    whole = jnp.ones(tokens.shape, jnp.bool_)
    none = jnp.zeros(tokens.shape, jnp.bool_)
    alone, _ = forward(name, tokens)
    plain, _ = forward(name, tokens, None, whole, none)
    assert_close(plain, alone, OUTPUT_F64)

    packed, _ = forward(name, tokens, None, whole, none.at[0, start].set(True))
    np.testing.assert_array_equal(packed[0, :start], plain[0, :start])
    np.testing.assert_array_equal(packed[1], plain[1])
    other, _ = forward(name, changed(tokens, 5), None, whole, none.at[0, start].set(True))
    np.testing.assert_array_equal(other[0, start:], packed[0, start:])
    rolled, _ = forward(name, jnp.roll(tokens, -start, axis=1))
    assert_close(packed[0, start:], rolled[0, : LENGTH - start], OUTPUT_F64)

    mask = whole.at[0, 2].set(False).at[0, 9].set(False)
    padded, _ = forward(name, tokens, None, mask, none)
    other, _ = forward(name, changed(changed(tokens, 2), 9), None, mask, none)
    np.testing.assert_array_equal(np.asarray(other)[mask], np.asarray(padded)[mask])
    assert (padded[0, 3] != plain[0, 3]).all()

    end = 10
    padded, _ = forward(name, tokens, None, whole.at[0, end:].set(False), none)
    np.testing.assert_array_equal(padded[0, :end], plain[0, :end])
    np.testing.assert_array_equal(padded[1], plain[1])
