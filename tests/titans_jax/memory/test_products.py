"""The VJPs written by hand against `jax.vjp` of the same formulas, and the dtypes of `dot`."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests import tolerances
from titans_jax.memory import products
from titans_jax.memory.products import NN, NT, TN

TOKENS, INNER, OUTER = 5, 3, 4


def normal(*shapes):
    rng = np.random.default_rng(0)
    return [None if shape is None else jnp.asarray(rng.normal(size=shape)) for shape in shapes]


def plain_read(x, weights, momentum, inputs, errors, keep, carry, write):
    z = x @ weights if keep is None else keep * (x @ weights)
    z = z if carry is None else z + carry * (x @ momentum)
    return z - (x @ inputs.T * write) @ errors


def plain_write(weights, momentum, inputs, errors, end_keep, end_carry, end_eta, w, w_momentum):
    new = weights if end_keep is None else end_keep * weights
    new = new - (w * inputs).T @ errors
    if w_momentum is None:
        return new, momentum
    return new + end_carry * momentum, end_eta * momentum - (w_momentum * inputs).T @ errors


def assert_same_vjp(by_hand, plain, arguments):
    """Values and the cotangents of all arguments agree in float64."""
    expected, pull = jax.vjp(plain, *arguments)
    actual, pull_by_hand = jax.vjp(by_hand, *arguments)
    tolerances.assert_close(actual, expected, tolerances.OUTPUT_F64)
    leaves, structure = jax.tree.flatten(expected)
    cotangent = structure.unflatten(normal(*(leaf.shape for leaf in leaves)))
    tolerances.assert_close(pull_by_hand(cotangent), pull(cotangent), tolerances.GRAD_F64)


@pytest.mark.parametrize("momentum", [True, False])
@pytest.mark.parametrize("forget", [True, False])
def test_reading_and_writing_a_layer(forget, momentum):
    column, one = (TOKENS, 1), (1, 1)
    keep, carry = (column if forget else None), (column if momentum else None)
    matrix, tokens = (INNER, OUTER), ((TOKENS, INNER), (TOKENS, OUTER))
    read = normal(tokens[0], matrix, matrix, *tokens, keep, carry, (TOKENS, TOKENS))
    assert_same_vjp(lambda *a: products.read_layer(*a, jnp.float64), plain_read, read)
    ends = [one if forget else None, *([one, one] if momentum else [None, None]), column, carry]
    write = normal(matrix, matrix, *tokens, *ends)
    assert_same_vjp(lambda *a: products.write_layer(*a, jnp.float64), plain_write, write)


@pytest.mark.parametrize("axes", [NN, NT, TN])
def test_dot_rounds_its_operands_and_nothing_else(axes):
    """With operands that bfloat16 holds exactly, products, sums and gradients are those of float32."""
    a, b = (np.random.default_rng(i).integers(-9, 9, (4, 4)) for i in range(2))
    exact = [jnp.asarray(x, jnp.float32) for x in (a, b)]
    cotangent = jnp.asarray(a.T, jnp.float32)
    results = []
    for operand in (jnp.bfloat16, jnp.float32):
        z, pull = jax.vjp(lambda x, y, o=operand: products.dot(x, y, axes, o), *exact)
        results.append((z, *pull(cotangent)))
    tolerances.assert_close(results[0], results[1], 0.0)
    fine = exact[0] * (1 + 2.0**-12)
    np.testing.assert_array_equal(products.dot(fine, exact[1], axes, jnp.bfloat16), results[0][0])
    assert (products.dot(fine, exact[1], axes, jnp.float32) != results[1][0]).any()
    narrow = [x.astype(jnp.bfloat16) for x in exact]
    assert products.dot(*narrow, axes, jnp.bfloat16).dtype == jnp.float32
