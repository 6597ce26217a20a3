"""The causal depthwise convolution against numpy's, with documents, padding and a carried tail."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from tests.tolerances import OUTPUT_F64, STATE_F64, assert_close
from titans_jax.layers.convolution import CausalConv, causal_convolution

BATCH, LENGTH, DIM = 2, 9, 3

convolve = jax.jit(causal_convolution)


def random_arrays(width):
    generator = np.random.default_rng(0)
    x = generator.normal(size=(BATCH, LENGTH, DIM))
    kernel = generator.normal(size=(width, DIM))
    tail = generator.normal(size=(BATCH, width - 1, DIM))
    mask = generator.random((BATCH, LENGTH)) < 0.7
    reset = generator.random((BATCH, LENGTH)) < 0.3
    mask[:, 3], reset[:, 5] = False, True
    return x, kernel, tail, reset, mask


def expected(x, kernel, tail, reset, mask):
    """numpy.convolve of each document alone; the tail belongs to the document that goes on."""
    out = np.zeros_like(x)
    for b in range(BATCH):
        starts = [0, *(t for t in range(1, LENGTH) if reset[b, t]), LENGTH]
        for start, end in itertools.pairwise(starts):
            goes_on = start == 0 and not reset[b, 0]
            before = tail[b] if goes_on else np.zeros_like(tail[b])
            document = np.where(mask[b, start:end, None], x[b, start:end], 0)
            whole = np.concatenate([before, document])
            for d in range(DIM):
                out[b, start:end, d] = np.convolve(whole[:, d], kernel[:, d])[
                    len(before) : len(whole)
                ]
    return out


@pytest.mark.parametrize("width", [1, 2, 4])
def test_equals_numpy(width):
    x, kernel, tail, reset, mask = random_arrays(width)
    none, all_ = np.zeros_like(reset), np.ones_like(mask)
    plain, new_tail = convolve(x, kernel, tail)
    assert_close(plain, expected(x, kernel, tail, none, all_), OUTPUT_F64)
    np.testing.assert_array_equal(new_tail, x[:, LENGTH - width + 1 :])
    packed, _ = convolve(x, kernel, tail, reset, mask)
    assert_close(packed, expected(x, kernel, tail, reset, mask), OUTPUT_F64)


@pytest.mark.parametrize("split", range(1, LENGTH, 2))
def test_a_split_changes_nothing(split):
    x, kernel, tail, reset, mask = random_arrays(4)
    whole, end = convolve(x, kernel, tail, reset, mask)
    first, tail = convolve(x[:, :split], kernel, tail, reset[:, :split], mask[:, :split])
    second, tail = convolve(x[:, split:], kernel, tail, reset[:, split:], mask[:, split:])
    assert_close(np.concatenate([first, second], axis=1), whole, OUTPUT_F64)
    assert_close(tail, end, STATE_F64)


def test_the_module_convolves_with_its_kernel():
    x, kernel, tail, reset, mask = random_arrays(4)
    module = CausalConv(DIM, 4, jnp.float64, rngs=nnx.Rngs(0))
    module.kernel[...] = jnp.asarray(kernel)
    assert_close(module(x, tail, reset, mask), convolve(x, kernel, tail, reset, mask), OUTPUT_F64)


def test_no_taps_are_refused():
    with pytest.raises(ValueError, match="width must be a positive integer, got 0"):
        CausalConv(DIM, 0, rngs=nnx.Rngs(0))
