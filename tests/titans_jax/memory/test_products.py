"""The VJPs written by hand against `jax.vjp` of the same formulas."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests import tolerances
from titans_jax.memory import products

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
        return new, None
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
    write = normal(matrix, matrix if momentum else None, *tokens, *ends)
    assert_same_vjp(lambda *a: products.write_layer(*a, jnp.float64), plain_write, write)
