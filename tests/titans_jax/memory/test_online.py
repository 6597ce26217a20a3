"""The inverse by which the online execution solves a tile, where it is hardest: keys that repeat."""

import jax.numpy as jnp
import numpy as np
import pytest

from tests.tolerances import OUTPUT_F32
from titans_jax.memory.online import inverse_unit_lower


@pytest.mark.parametrize("size", [1, 6, 64, 128])
@pytest.mark.parametrize("step", [0.25, 0.5, 0.9, 1.0])
def test_the_inverse_is_exact_in_float32_where_keys_repeat(size, step):
    """The errors of a tile in which one key comes again and again; theta = 1 flips the memory along it."""
    strict = np.tril(np.full((size, size), 2 * step), -1)
    expected = np.linalg.inv(np.eye(size) + strict)
    found = inverse_unit_lower(jnp.asarray(strict, jnp.float32))
    np.testing.assert_allclose(found, expected, atol=OUTPUT_F32 * np.abs(expected).max())


def test_the_inverse_of_any_lower_triangle():
    rng = np.random.default_rng(0)
    for size in (2, 3, 17):
        strict = np.tril(rng.normal(size=(size, size)), -1) / size
        expected = np.linalg.inv(np.eye(size) + strict)
        np.testing.assert_allclose(inverse_unit_lower(jnp.asarray(strict)), expected, atol=1e-12)
