"""Packed and padded documents: each gives what it gives alone, in every variant."""

import functools

import jax.numpy as jnp
import numpy as np
import pytest

from tests.titans_jax.models.tiny_models import (
    KINDS,
    SEGMENT,
    forward,
    random_tokens,
)
from tests.tolerances import OUTPUT_F64, assert_close

LONGEST = 3 * SEGMENT // 2  # reaches into a second segment, and past window and chunk
# Where documents start and how long they are, by sequence: each at a segment's first token.
PLACES = (
    ((0, SEGMENT - 1), (SEGMENT, LONGEST), (3 * SEGMENT, SEGMENT - 1)),
    ((0, LONGEST), (2 * SEGMENT, 2), (3 * SEGMENT, SEGMENT)),
)
SHAPE = (2, 4 * SEGMENT)


@functools.cache
def documents():
    """A document of the longest length for every place, [place, sequence, token]."""
    return np.stack([random_tokens(seed, LONGEST) for seed in (10, 11, 12)])


@functools.cache
def packed():
    """Tokens, mask and resets of the documents side by side, 0 between them."""
    tokens = np.zeros(SHAPE, np.int32)
    mask, reset = np.zeros(SHAPE, bool), np.zeros(SHAPE, bool)
    for row, places in enumerate(PLACES):
        for number, (start, length) in enumerate(places):
            tokens[row, start : start + length] = documents()[number, row, :length]
            mask[row, start : start + length] = True
            reset[row, start] = True
    return tokens, mask, reset


@pytest.mark.parametrize("name", KINDS)
def test_packed_documents_equal_each_alone(name):
    tokens, mask, reset = map(jnp.asarray, packed())
    together, _ = forward(name, tokens, None, mask, reset)
    assert np.isfinite(together).all()  # padding too: its gradient would spoil the others'
    for number, pair in enumerate(documents()):
        alone, _ = forward(name, jnp.asarray(pair))
        for row, places in enumerate(PLACES):
            start, length = places[number]
            # No output sees what comes later, so the start of a longer call is the short document's.
            assert_close(together[row, start : start + length], alone[row, :length], OUTPUT_F64)


@pytest.mark.parametrize("name", KINDS)
def test_what_stands_in_the_padding_changes_nothing(name):
    tokens, mask, reset = packed()
    noise = np.asarray(random_tokens(13, SHAPE[1]))
    noisy = np.where(mask, tokens, noise)
    assert (noisy != tokens).any()
    flags = jnp.asarray(mask), jnp.asarray(reset)
    before, _ = forward(name, jnp.asarray(tokens), None, *flags)
    after, _ = forward(name, jnp.asarray(noisy), None, *flags)
    np.testing.assert_array_equal(np.asarray(after)[mask], np.asarray(before)[mask])
