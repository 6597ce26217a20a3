"""Norms against numpy, at zero vectors, and in bfloat16."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.tolerances import GRAD_F64, OUTPUT_BF16, OUTPUT_F64, assert_close
from titans_jax.layers.norms import L2_EPSILON, RMS_EPSILON, l2_normalise, rms_norm


def random_array(*shape, scale=1.0):
    return scale * np.random.default_rng(0).normal(size=shape)


def test_rms_norm_equals_numpy():
    x, gain = random_array(2, 3, 5), random_array(5)
    mean = (x**2).mean(axis=-1, keepdims=True)
    assert_close(rms_norm(jnp.asarray(x), gain), x / np.sqrt(mean + RMS_EPSILON) * gain, OUTPUT_F64)


def test_l2_normalise_equals_numpy():
    x = random_array(2, 3, 5)
    expected = x / np.sqrt((x**2).sum(axis=-1, keepdims=True) + L2_EPSILON)
    actual = l2_normalise(jnp.asarray(x))
    assert_close(actual, expected, OUTPUT_F64)
    assert_close(np.linalg.norm(actual, axis=-1), np.ones((2, 3)), L2_EPSILON)


NORMS = {"l2": l2_normalise, "rms": lambda x: rms_norm(x, jnp.ones(x.shape[-1], x.dtype))}


@pytest.mark.parametrize("dtype", [jnp.float64, jnp.float32, jnp.bfloat16])
@pytest.mark.parametrize("norm", NORMS)
def test_a_zero_vector_has_a_value_and_a_finite_gradient(norm, dtype):
    """Padding and dead features are zero vectors; one NaN here would reach every parameter."""
    x = jnp.zeros((5,), dtype)
    value, pull = jax.vjp(NORMS[norm], x)
    np.testing.assert_array_equal(value, x)
    (gradient,) = pull(jnp.ones_like(x))
    assert gradient.dtype == dtype
    # The derivative at zero is that of x / sqrt(epsilon).
    slope = {"l2": L2_EPSILON, "rms": RMS_EPSILON}[norm] ** -0.5
    tolerance = GRAD_F64 if dtype == jnp.float64 else OUTPUT_BF16
    assert_close(gradient, np.full(5, slope), tolerance)


@pytest.mark.parametrize("norm", NORMS)
def test_bfloat16_is_rounded_once_at_the_end(norm):
    """Statistics in bfloat16 would keep eight bits of the norm, and shift the whole vector by an ulp."""
    x = jnp.asarray(random_array(16, 64), jnp.bfloat16)
    value = NORMS[norm](x)
    assert value.dtype == jnp.bfloat16
    np.testing.assert_array_equal(value, NORMS[norm](x.astype(jnp.float32)).astype(jnp.bfloat16))
