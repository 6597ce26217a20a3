"""Rotary embedding: the complex form, and scores that depend on differences of positions only."""

import jax.numpy as jnp
import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from tests.titans_jax.layers import naive
from tests.tolerances import OUTPUT_F64, assert_close
from titans_jax.layers.rotary import rotate

LENGTH, HEADS, HEAD_DIM, BASE = 4, 2, 6, 10000.0


def random_array(seed):
    return jnp.asarray(np.random.default_rng(seed).normal(size=(LENGTH, HEADS, HEAD_DIM)))


def test_equals_the_complex_form():
    x, positions = random_array(0), np.array([0, 1, 7, 1000])
    turned = naive.turn(np.asarray(x), positions, BASE)
    expected = np.concatenate([turned.real, turned.imag], axis=-1)
    actual = rotate(x, jnp.asarray(positions), BASE)
    assert_close(actual, expected, OUTPUT_F64)
    np.testing.assert_array_equal(actual[0], x[0])


@given(first=st.integers(0, 1000), second=st.integers(0, 1000), shift=st.integers(-1000, 10_000))
def test_scores_depend_on_the_difference_of_positions(first, second, shift):
    q, k = random_array(1), random_array(2)

    def scores(first, second):
        places = (jnp.full((LENGTH,), place) for place in (first, second))
        turned = (rotate(x, place, BASE) for x, place in zip((q, k), places, strict=True))
        return np.einsum("thk,shk->hts", *turned)

    assert_close(scores(first + shift, second + shift), scores(first, second), OUTPUT_F64)
    moved = np.abs(scores(first + 1, second) - scores(first, second)).max()
    assert moved > 0.1  # they do depend on the difference


def test_positions_may_differ_by_sequence():
    x = jnp.stack([random_array(3), random_array(4)])
    positions = jnp.asarray([[0, 1, 2, 3], [5, 6, 7, 8]])
    together = rotate(x, positions, BASE)
    alone = jnp.stack([rotate(x[b], positions[b], BASE) for b in range(2)])
    assert_close(together, alone, OUTPUT_F64)


def test_bfloat16_is_turned_in_float32():
    """A position of 1001 is 1000 in bfloat16: one radian off."""
    x, positions = random_array(5).astype(jnp.bfloat16), jnp.full((LENGTH,), 1001)
    turned = rotate(x, positions, BASE)
    assert turned.dtype == jnp.bfloat16
    wide = rotate(x.astype(jnp.float32), positions, BASE)
    np.testing.assert_array_equal(turned, wide.astype(jnp.bfloat16))
