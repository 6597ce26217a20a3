"""Generating token by token against the attention of many tokens at once."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.titans_jax.layers.test_attention import (
    BASE,
    BATCH,
    HEAD_DIM,
    HEADS,
    LENGTH,
    WINDOW,
    random_inputs,
)
from tests.tolerances import OUTPUT_F64, STATE_F64, assert_close
from titans_jax.layers.attention import (
    SegmentCache,
    full_attention,
    init_full_state,
    init_window_state,
    sliding_window_attention,
)
from titans_jax.layers.cached_attention import (
    Cache,
    decoding_state,
    full_cache_attention,
    put,
    ring_attention,
    stream_state,
)

KINDS = {
    "window": (sliding_window_attention, ring_attention, init_window_state, WINDOW),
    "full": (full_attention, full_cache_attention, init_full_state, LENGTH),
}


def part(inputs, start, stop):
    return (*(x[:, start:stop] for x in inputs[:3]), *inputs[3:])


def generated(kind, inputs, start, state):
    """The outputs of the tokens from `start` on, one by one, and the state after them."""
    one = jax.jit(functools.partial(KINDS[kind][1], rope_base=BASE))
    state, outputs = decoding_state(state, BASE), []
    for t in range(start, inputs[0].shape[1]):
        out, state = one(*(x[:, t] for x in inputs[:3]), *inputs[3:], state)
        outputs.append(out)
    return jnp.stack(outputs, axis=1), stream_state(state)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("prefix", [0, 2])
def test_equals_attention_of_all_tokens_at_once(kind, prefix):
    """Past the window's end twice, from a state that holds tokens of its own, one of them padding."""
    many, _, make, size = KINDS[kind]
    inputs = random_inputs(LENGTH, prefix)
    empty = make(BATCH, size, HEADS, HEAD_DIM, jnp.float64)
    mask = jnp.ones((BATCH, LENGTH), jnp.bool_).at[1, 1].set(False)
    whole, end = many(*inputs, empty, rope_base=BASE, mask=mask)
    _, state = many(*part(inputs, 0, 2), empty, rope_base=BASE, mask=mask[:, :2])
    out, after = generated(kind, inputs, 2, state)
    assert_close(out, whole[:, 2:], OUTPUT_F64)
    assert_close(after, end, STATE_F64)


@pytest.mark.parametrize("kind", KINDS)
def test_sequences_may_be_at_different_places(kind):
    many, one, make, size = KINDS[kind]
    inputs = random_inputs()
    empty = make(BATCH, size, HEADS, HEAD_DIM, jnp.float64)
    whole, _ = many(*inputs, empty, rope_base=BASE)
    _, state = many(*part(inputs, 0, 4), empty, rope_base=BASE)
    early = decoding_state(state, BASE)
    _, late = one(*(x[:, 4] for x in inputs[:3]), *inputs[3:], early, rope_base=BASE)
    mixed = jax.tree.map(
        lambda a, b: jnp.concatenate([a[: a.shape[0] // 2], b[b.shape[0] // 2 :]]), early, late
    )
    tokens = (jnp.stack([x[0, 4], x[1, 5]]) for x in inputs[:3])
    out, _ = one(*tokens, *inputs[3:], mixed, rope_base=BASE)
    assert_close(out, jnp.stack([whole[0, 4], whole[1, 5]]), OUTPUT_F64)


def test_a_full_cache_that_overflows_gives_nan():
    inputs = random_inputs()
    empty = init_full_state(BATCH, LENGTH, HEADS, HEAD_DIM, jnp.float64)
    _, state = full_attention(*inputs, empty, rope_base=BASE)
    token = (*(x[:, 0] for x in inputs[:3]), *inputs[3:])
    out, _ = full_cache_attention(*token, decoding_state(state, BASE), rope_base=BASE)
    assert np.isnan(out).all()


def test_a_segments_cache_comes_back_as_it_was():
    generator = np.random.default_rng(0)
    shape = (BATCH, HEADS, 2, LENGTH, HEAD_DIM)
    visible = jnp.asarray(generator.random((BATCH, LENGTH)) < 0.5)
    cache = SegmentCache(*jnp.asarray(generator.normal(size=(2, *shape))), visible)
    back = stream_state(decoding_state(cache, BASE))
    jax.tree.map(np.testing.assert_array_equal, back, cache)


@pytest.mark.parametrize("sequences", [1, 2])
def test_a_slot_that_is_not_there_is_left_out(sequences):
    heads, size, features = 2, 3, 4
    old = jnp.zeros((sequences * heads, size, features))
    cache = Cache(old, old, jnp.zeros((sequences, size), jnp.bool_))
    new = jnp.arange(1.0, 1 + sequences * 2 * heads * features)
    new = new.reshape(sequences, 2, heads, features)
    slots = jnp.tile(jnp.asarray([[1, size]]), (sequences, 1))
    after = put(cache, slots, new, -new, jnp.ones((sequences, 2), jnp.bool_))
    wanted = old.at[:, 1].set(new[:, 0].reshape(-1, features))
    np.testing.assert_array_equal(after.keys, wanted)
    np.testing.assert_array_equal(after.values, -wanted)
    np.testing.assert_array_equal(after.visible, [[False, True, False]] * sequences)
