"""Windowed, full and segment attention against a full score matrix in numpy; the window's cost."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.extend.core import jaxprs_in_params

from tests.titans_jax.layers import naive
from tests.tolerances import OUTPUT_F64, STATE_F64, assert_close
from titans_jax.layers.attention import (
    full_attention,
    init_full_state,
    init_window_state,
    segment_attention,
    sliding_window_attention,
)
from titans_jax.layers.rotary import rotate

BATCH, HEADS, HEAD_DIM, BASE = 2, 2, 4, 100.0
WINDOW = 5
LENGTH = 13  # more than two blocks of a window, and no multiple of it


def random_inputs(length=LENGTH, prefix=2, seed=0):
    """q, k, v [B T H K] and the prefix's keys and values [P H K]."""
    keys = jax.random.split(jax.random.key(seed), 5)
    sizes = [(BATCH, length)] * 3 + [(prefix,)] * 2
    return tuple(
        jax.random.normal(key, (*size, HEADS, HEAD_DIM), jnp.float64)
        for key, size in zip(keys, sizes, strict=True)
    )


def random_flags(length=LENGTH, seed=1):
    """A mask and resets, different in each sequence; padding and a later document are certain."""
    generator = np.random.default_rng(seed)
    mask = generator.random((BATCH, length)) < 0.7
    reset = generator.random((BATCH, length)) < 0.2
    mask[:, 1], reset[1, 2] = False, True
    return mask, reset


windowed = jax.jit(functools.partial(sliding_window_attention, rope_base=BASE))
full = jax.jit(functools.partial(full_attention, rope_base=BASE))
segmented = jax.jit(functools.partial(segment_attention, rope_base=BASE))


def fresh_state(kind, size):
    make = init_window_state if kind is windowed else init_full_state
    return make(BATCH, size, HEADS, HEAD_DIM, jnp.float64)


def expected(inputs, window, mask, reset):
    q, k, v, prefix_keys, prefix_values = inputs
    place = np.arange(q.shape[1])
    return np.stack(
        [
            naive.attention(
                q[b],
                k[b],
                v[b],
                prefix_keys,
                prefix_values,
                naive.causal_visibility(window, mask[b], reset[b]),
                place,
                place,
                BASE,
            )
            for b in range(BATCH)
        ]
    )


@pytest.mark.parametrize("prefix", [0, 2])
@pytest.mark.parametrize("flags", [False, True])
@pytest.mark.parametrize(
    ("kind", "window", "length"),
    [(windowed, WINDOW, LENGTH), (windowed, WINDOW, 3), (windowed, 1, 4), (full, 100, LENGTH)],
    ids=["window", "shorter_than_window", "window_of_one", "full"],
)
def test_equals_the_full_score_matrix(kind, window, length, flags, prefix):
    inputs = random_inputs(length, prefix)
    state = fresh_state(kind, window if kind is windowed else length)
    if flags:
        mask, reset = random_flags(length)
        out, _ = kind(*inputs, state, mask=jnp.asarray(mask), reset=jnp.asarray(reset))
    else:
        mask, reset = np.ones((BATCH, length), bool), np.zeros((BATCH, length), bool)
        out, _ = kind(*inputs, state)
    # What a padding token itself gets is nobody's business, as long as it is finite.
    assert np.isfinite(out).all()
    assert_close(out[mask], expected(inputs, window, mask, reset)[mask], OUTPUT_F64)


@pytest.mark.parametrize("kind", [windowed, full], ids=["window", "full"])
@pytest.mark.parametrize("pieces", [(1, 12), (6, 1, 6), (12, 1)])
def test_documents_and_padding_in_a_split_sequence(kind, pieces):
    inputs = random_inputs()
    mask, reset = map(jnp.asarray, random_flags())
    size = WINDOW if kind is windowed else LENGTH
    whole, end = kind(*inputs, fresh_state(kind, size), mask=mask, reset=reset)
    state, start, outputs = fresh_state(kind, size), 0, []
    for length in pieces:
        part = slice(start, start + length)
        qkv = (leaf[:, part] for leaf in inputs[:3])
        out, state = kind(*qkv, *inputs[3:], state, mask=mask[:, part], reset=reset[:, part])
        outputs.append(out)
        start += length
    assert_close(np.concatenate(outputs, 1)[mask], whole[mask], OUTPUT_F64)
    assert_close(state, end, STATE_F64)


def test_segment_attention_equals_the_full_score_matrix():
    """Queries late in a segment whose first tokens are in the cache, as in decoding with MAC."""
    slots, offset = 6, 2
    q, k, v, prefix_keys, prefix_values = random_inputs(slots)
    context_keys, context_values, *_ = random_inputs(slots, seed=7)
    q = q[:, offset:]
    position = np.arange(slots)
    query_position = position[offset:]
    mask = np.array([[1, 1, 0, 1, 1, 1], [1, 0, 1, 1, 0, 1]], bool)
    visible = (position <= query_position[:, None]) & mask[:, None, :]
    out = segmented(
        q,
        rotate(jnp.stack([context_keys, k], axis=1), jnp.asarray(position + 40), BASE),
        jnp.stack([context_values, v], axis=1),
        prefix_keys,
        prefix_values,
        query_position=jnp.broadcast_to(query_position + 40, (BATCH, slots - offset)),
        visible=jnp.asarray(visible),
    )
    # h_j has token j's position and token j's visibility.
    twice = np.concatenate([position, position])
    reference = np.stack(
        [
            naive.attention(
                q[b],
                np.concatenate([context_keys[b], k[b]]),
                np.concatenate([context_values[b], v[b]]),
                prefix_keys,
                prefix_values,
                np.concatenate([visible[b], visible[b]], axis=1),
                query_position,
                twice,
                BASE,
            )
            for b in range(BATCH)
        ]
    )
    assert_close(out, reference, OUTPUT_F64)


@pytest.mark.parametrize("source", range(4), ids=["h keys", "keys", "h values", "values"])
def test_in_a_segment_neither_token_nor_recall_is_seen_early(source):
    slots, changed = 6, 3
    q, k, v, *prefix = random_inputs(slots)
    context_keys, context_values, *_ = random_inputs(slots, seed=7)
    position = jnp.broadcast_to(jnp.arange(slots), (BATCH, slots))
    flags = {"query_position": position, "visible": position[:, None, :] <= position[:, :, None]}
    sources = [context_keys, k, context_values, v]

    def attended():
        keys, values = (jnp.stack(sources[i : i + 2], axis=1) for i in (0, 2))
        return segmented(q, rotate(keys, position[:, None], BASE), values, *prefix, **flags)

    before = attended()
    sources[source] = sources[source].at[:, changed].add(1)
    after = attended()
    np.testing.assert_array_equal(after[:, :changed], before[:, :changed])
    assert (after[:, changed:] != before[:, changed:]).all()


def shapes(jaxpr):
    """Shapes of every intermediate array, those of inner jaxprs too."""
    for equation in jaxpr.eqns:
        yield from (variable.aval.shape for variable in equation.outvars)
        for inner in jaxprs_in_params(equation.params):
            yield from shapes(inner)


def gradient_jaxpr(kind, length):
    """The forward and backward pass at a length, evaluated in shapes only."""
    state = fresh_state(kind, WINDOW if kind is windowed else length)

    def loss(*inputs):
        return kind(*inputs, state)[0].sum()

    return jax.make_jaxpr(jax.grad(loss, argnums=(0, 1, 2)))(*random_inputs(length)).jaxpr


def has_score_matrix(kind, length):
    return any(
        sum(size >= length for size in shape) > 1 for shape in shapes(gradient_jaxpr(kind, length))
    )


def test_a_window_makes_no_score_matrix():
    assert not has_score_matrix(windowed, 32 * WINDOW)
    assert has_score_matrix(full, 32 * WINDOW)  # the search would find one


def test_a_window_costs_in_proportion_to_the_length():
    def size(kind, length):
        return sum(np.prod(shape) for shape in shapes(gradient_jaxpr(kind, length)))

    short = 32 * WINDOW
    assert size(windowed, 4 * short) < 4.1 * size(windowed, short)
    assert size(full, 4 * short) > 10 * size(full, short)
