"""What the dual form does with one layer, and the VJPs by hand.

The VJPs of `read_layer` and `write_layer` need one product less than the derived ones where two share a transposed
operand, keep nothing that can be had from dz M^T, and reduce to the gates' gradients on the way. A test holds them
to ``jax.vjp`` of the same formulas.
"""

import functools

import jax
import jax.numpy as jnp
from jaxtyping import Float

from titans_jax.tiles.matrices import NN, NT, TN, dot, row_sum, scaled
from titans_jax.typing import Array


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
        keep: of `gates.Decays`, as are the next two.
        carry: how S_0 enters the read.
        write: how each token's gradient enters it.
        operand: dtype of the products' operands.
    """
    scores = dot(x, inputs, NT, operand) * write  # [R, R]
    z = scaled(keep, dot(x, weights, NN, operand))  # [R, O]
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
    dx = scaled(keep, from_weights) + dot(into_x, inputs, NN, operand)
    d_keep = None if keep is None else row_sum(x * from_weights)
    x_columns = x.astype(operand).T  # [I, R], shared by two products
    d_weights = dot(x_columns, scaled(keep, dz), NN, operand)  # [I, O]
    if carry is None:
        d_momentum, d_carry = jnp.zeros_like(momentum), None
    else:
        from_momentum = dot(dz, momentum, NT, operand)  # [R, I]
        dx = dx + carry * from_momentum
        d_carry = row_sum(x * from_momentum)
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
    momentum: Float[Array, "I O"] | None,
    inputs: Float[Array, "R I"],
    errors: Float[Array, "R O"],
    end_keep: Float[Array, "1 1"] | None,
    end_carry: Float[Array, "1 1"] | None,
    end_eta: Float[Array, "1 1"] | None,
    end_write: Float[Array, "R 1"],
    end_momentum: Float[Array, "R 1"] | None,
    operand: jnp.dtype,
) -> tuple[Float[Array, "I O"], Float[Array, "I O"] | None]:
    """M and S of a layer after the tile.

    Args:
        weights: M_0.
        momentum: S_0; None without momentum, and then there is no S after the tile either.
        inputs: a of every token.
        errors: g of every token.
        end_keep: of `gates.Decays`, as are the next four.
        end_carry: how S_0 enters M at the end.
        end_eta: what is left of S_0 in S.
        end_write: how each token's gradient enters M.
        end_momentum: how it enters S.
        operand: dtype of the products' operands.
    """
    columns = inputs.astype(operand).T  # [I, R], shared by two products
    new = scaled(end_keep, weights) - dot(columns, end_write * errors, NN, operand)
    if momentum is None:
        return new, None
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
    d_end_write = -row_sum(written * errors)
    if momentum is None:
        d_old, d_end_carry, d_end_eta, d_end_momentum = None, None, None, None
    else:
        moved = dot(inputs, d_momentum, NN, operand)  # [R, O]
        d_errors = d_errors - end_momentum * moved
        d_inputs = d_inputs + dot(-end_momentum * errors, d_momentum, NT, operand)
        d_old = end_carry * d_weights + end_eta * d_momentum
        d_end_carry, d_end_eta = _total(d_weights * momentum), _total(d_momentum * momentum)
        d_end_momentum = -row_sum(moved * errors)
    return (
        scaled(end_keep, d_weights),
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
    return jnp.sum(row_sum(x), axis=0, keepdims=True)
