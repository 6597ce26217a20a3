"""The matrix products of the dual form, and their VJPs by hand.

`dot` rounds its operands to the activations' dtype and returns the state's: with bfloat16 activations one
pass of a matrix unit, summed in float32, forward and backward. Without activations in a narrower dtype it
is a plain product.

`read_layer` and `write_layer` are what chunk.py does with one layer. Their VJPs need one product less than the
derived ones where two share a transposed operand, keep nothing that can be had from dz M^T, and reduce
to the gates' gradients on the way. A test holds them to ``jax.vjp`` of the same formulas.
"""

import functools

import jax
import jax.numpy as jnp
from jaxtyping import Float

from titans_jax.typing import Array

#: Contracted axes of the left and the right operand: a b, a b^T and a^T b.
NN, NT, TN = (1, 0), (1, 1), (0, 0)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def dot(
    a: Float[Array, "_ _"], b: Float[Array, "_ _"], axes: tuple[int, int], operand: jnp.dtype
) -> Float[Array, "_ _"]:
    """A product of two matrices whose operands are rounded to ``operand`` and whose sums are not.

    Args:
        a: left.
        b: right. The result has the wider of the two dtypes, and at least float32.
        axes: `NN`, `NT` or `TN`.
        operand: dtype of the operands.
    """
    dimensions = (((axes[0],), (axes[1],)), ((), ()))
    dtype = jnp.result_type(a.dtype, b.dtype, jnp.float32)
    return jax.lax.dot_general(
        a.astype(operand), b.astype(operand), dimensions, preferred_element_type=dtype
    )


def _dot_forward(a, b, axes, operand):
    return dot(a, b, axes, operand), (a, b)


def _dot_backward(axes, operand, operands, dz):
    a, b = operands
    left, right = axes
    if left == 1:
        da = dot(dz, b, (1, 1 - right), operand)
    else:
        da = dot(b, dz, (1 - right, 1), operand)
    if right == 0:
        db = dot(a, dz, (1 - left, 0), operand)
    else:
        db = dot(dz, a, (0, 1 - left), operand)
    return da.astype(a.dtype), db.astype(b.dtype)


dot.defvjp(_dot_forward, _dot_backward)


def _row_sum(x: Float[Array, "R _"]) -> Float[Array, "R 1"]:
    return jnp.sum(x, axis=1, keepdims=True)


def _scaled(factor: Array | None, x: Array) -> Array:
    return x if factor is None else factor * x


@functools.partial(jax.custom_vjp, nondiff_argnums=(8,))
def read_layer(
    x: Float[Array, "R I"],
    weights: Float[Array, "I O"],
    momentum: Float[Array, "I O"],
    inputs: Float[Array, "R I"],
    errors: Float[Array, "R O"],
    keep: Float[Array, "R 1"] | None,
    carry: Float[Array, "R 1"] | None,
    write: Float[Array, "R R"],
    operand: jnp.dtype,
) -> Float[Array, "R O"]:
    """x_t M_t at every token: keep x M_0 + carry x S_0 - (x inputs^T * write) errors.

    Args:
        x: what the layer reads with.
        weights: M_0 of the layer.
        momentum: S_0 of the layer.
        inputs: a of every token (networks.py).
        errors: g of every token.
        keep, carry, write: of `gates.Decays`.
        operand: dtype of the products' operands.
    """
    scores = dot(x, inputs, NT, operand) * write  # [R, R]
    z = _scaled(keep, dot(x, weights, NN, operand))  # [R, O]
    if carry is not None:
        z = z + carry * dot(x, momentum, NN, operand)
    return z - dot(scores, errors, NN, operand)


def _read_forward(x, weights, momentum, inputs, errors, keep, carry, write, operand):
    z = read_layer(x, weights, momentum, inputs, errors, keep, carry, write, operand)
    return z, (x, weights, momentum, inputs, errors, keep, carry, write)


def _read_backward(operand, residuals, dz):
    x, weights, momentum, inputs, errors, keep, carry, write = residuals
    scores = dot(x, inputs, NT, operand)  # [R, R]
    unwritten = -dot(dz, errors, NT, operand)  # gradient of scores * write, [R, R]
    into_x = write * unwritten  # [R, R]
    from_weights = dot(dz, weights, NT, operand)  # [R, I]
    dx = _scaled(keep, from_weights) + dot(into_x, inputs, NN, operand)
    d_keep = None if keep is None else _row_sum(x * from_weights)
    x_columns = x.astype(operand).T  # [I, R], shared by two products
    d_weights = dot(x_columns, _scaled(keep, dz), NN, operand)  # [I, O]
    if carry is None:
        d_momentum, d_carry = jnp.zeros_like(momentum), None
    else:
        from_momentum = dot(dz, momentum, NT, operand)  # [R, I]
        dx = dx + carry * from_momentum
        d_carry = _row_sum(x * from_momentum)
        d_momentum = dot(x_columns, carry * dz, NN, operand)  # [I, O]
    return (
        dx.astype(x.dtype),
        d_weights.astype(weights.dtype),
        d_momentum.astype(momentum.dtype),
        dot(into_x, x, TN, operand).astype(inputs.dtype),
        dot(scores * -write, dz, TN, operand).astype(errors.dtype),
        d_keep,
        d_carry,
        scores * unwritten,
    )


read_layer.defvjp(_read_forward, _read_backward)


@functools.partial(jax.custom_vjp, nondiff_argnums=(9,))
def write_layer(
    weights: Float[Array, "I O"],
    momentum: Float[Array, "I O"],
    inputs: Float[Array, "R I"],
    errors: Float[Array, "R O"],
    end_keep: Float[Array, "1 1"] | None,
    end_carry: Float[Array, "1 1"] | None,
    end_eta: Float[Array, "1 1"] | None,
    end_write: Float[Array, "R 1"],
    end_momentum: Float[Array, "R 1"] | None,
    operand: jnp.dtype,
) -> tuple[Float[Array, "I O"], Float[Array, "I O"]]:
    """M and S of a layer after the tile; S stays as it is without momentum.

    Args:
        weights: M_0.
        momentum: S_0.
        inputs: a of every token.
        errors: g of every token.
        end_keep, end_carry, end_eta, end_write, end_momentum: of `gates.Decays`.
        operand: dtype of the products' operands.
    """
    columns = inputs.astype(operand).T  # [I, R], shared by two products
    new = _scaled(end_keep, weights) - dot(columns, end_write * errors, NN, operand)
    if end_momentum is None:
        return new, momentum
    shift = dot(columns, end_momentum * errors, NN, operand)  # [I, O]
    return new + end_carry * momentum, end_eta * momentum - shift


def _write_forward(*arguments):
    return write_layer(*arguments), arguments[:-1]


def _write_backward(operand, residuals, cotangents):
    (
        weights,
        momentum,
        inputs,
        errors,
        end_keep,
        end_carry,
        end_eta,
        end_write,
        end_momentum,
    ) = residuals
    d_weights, d_momentum = cotangents
    written = dot(inputs, d_weights, NN, operand)  # [R, O]
    into_errors = -end_write  # signs change in columns, which is cheap
    d_errors = into_errors * written
    d_inputs = dot(into_errors * errors, d_weights, NT, operand)  # [R, I]
    d_end_keep = None if end_keep is None else _total(d_weights * weights)
    d_end_write = -_row_sum(written * errors)
    if end_momentum is None:
        d_old, d_end_carry, d_end_eta, d_end_momentum = d_momentum, None, None, None
    else:
        moved = dot(inputs, d_momentum, NN, operand)  # [R, O]
        d_errors = d_errors - end_momentum * moved
        d_inputs = d_inputs + dot(-end_momentum * errors, d_momentum, NT, operand)
        d_old = end_carry * d_weights + end_eta * d_momentum
        d_end_carry, d_end_eta = _total(d_weights * momentum), _total(d_momentum * momentum)
        d_end_momentum = -_row_sum(moved * errors)
    return (
        _scaled(end_keep, d_weights),
        d_old,
        d_inputs.astype(inputs.dtype),
        d_errors.astype(errors.dtype),
        d_end_keep,
        d_end_carry,
        d_end_eta,
        d_end_write,
        d_end_momentum,
    )


write_layer.defvjp(_write_forward, _write_backward)


def _total(x: Float[Array, "I O"]) -> Float[Array, "1 1"]:
    """The sum of a matrix as a matrix, rows first."""
    return jnp.sum(_row_sum(x), axis=0, keepdims=True)
