"""Operations on a tile's matrices; the inverse where it is hardest, with keys that repeat."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests import tolerances
from titans_jax.tiles.matrices import (
    NN,
    NT,
    TN,
    column,
    dot,
    inverse_unit_lower,
    last,
    solve_unit_lower,
)


@pytest.mark.parametrize("size", [1, 6, 64, 128])
@pytest.mark.parametrize("step", [0.25, 0.5, 0.9, 1.0])
def test_the_inverse_is_exact_in_float32_where_keys_repeat(size, step):
    """The errors of a tile in which one key comes again and again; theta = 1 flips the memory along it."""
    strict = np.tril(np.full((size, size), 2 * step), -1)
    expected = np.linalg.inv(np.eye(size) + strict)
    found = inverse_unit_lower(jnp.asarray(strict, jnp.float32))
    np.testing.assert_allclose(found, expected, atol=tolerances.OUTPUT_F32 * np.abs(expected).max())


def test_the_inverse_of_any_lower_triangle():
    rng = np.random.default_rng(0)
    for size in (2, 3, 17):
        strict = np.tril(rng.normal(size=(size, size)), -1) / size
        expected = np.linalg.inv(np.eye(size) + strict)
        np.testing.assert_allclose(inverse_unit_lower(jnp.asarray(strict)), expected, atol=1e-12)


def test_the_solution_and_its_gradients():
    """Against numpy's solve, and ``jax.vjp`` of the product with the inverse."""
    rng = np.random.default_rng(0)
    strict = jnp.asarray(np.tril(rng.normal(size=(6, 6)), -1))
    right = jnp.asarray(rng.normal(size=(6, 3)))
    cotangent = jnp.asarray(rng.normal(size=(6, 3)))
    x, pull = jax.vjp(lambda a, b: solve_unit_lower(a, b, jnp.float64), strict, right)
    expected = np.linalg.solve(np.eye(6) + np.asarray(strict), right)
    tolerances.assert_close(x, expected, tolerances.OUTPUT_F64)
    _, plain = jax.vjp(lambda a, b: inverse_unit_lower(jnp.tril(a, -1)) @ b, strict, right)
    tolerances.assert_close(pull(cotangent), plain(cotangent), tolerances.GRAD_F64)


def test_columns_and_ends_of_rows():
    row = jnp.arange(5.0)[None]
    np.testing.assert_array_equal(column(row), row.T)
    np.testing.assert_array_equal(last(row), row[:, -1:])


@pytest.mark.parametrize("axes", [NN, NT, TN])
def test_dot_rounds_its_operands_and_nothing_else(axes):
    """With operands that bfloat16 holds exactly, products, sums and gradients are those of float32."""
    a, b = (np.random.default_rng(i).integers(-9, 9, (4, 4)) for i in range(2))
    exact = [jnp.asarray(x, jnp.float32) for x in (a, b)]
    cotangent = jnp.asarray(a.T, jnp.float32)
    results = []
    for operand in (jnp.bfloat16, jnp.float32):
        z, pull = jax.vjp(lambda x, y, o=operand: dot(x, y, axes, o), *exact)
        results.append((z, *pull(cotangent)))
    tolerances.assert_close(results[0], results[1], 0.0)
    fine = exact[0] * (1 + 2.0**-12)
    np.testing.assert_array_equal(dot(fine, exact[1], axes, jnp.bfloat16), results[0][0])
    assert (dot(fine, exact[1], axes, jnp.float32) != results[1][0]).any()
    narrow = [x.astype(jnp.bfloat16) for x in exact]
    assert dot(*narrow, axes, jnp.bfloat16).dtype == jnp.float32
