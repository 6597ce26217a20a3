"""Operations on one tile's matrices, in the subset that Mosaic and Triton lower (no slices, no solves).

`dot` rounds its operands to the activations' dtype and returns the state's: with bfloat16 activations one
pass of a matrix unit, summed in float32, forward and backward. Without activations in a narrower dtype it
is a plain product.
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


def row_sum(x: Float[Array, "R _"]) -> Float[Array, "R 1"]:
    """Sums of the rows, as a column.

    Args:
        x: any matrix.
    """
    return jnp.sum(x, axis=1, keepdims=True)


def scaled(factor: Array | None, x: Array) -> Array:
    """``factor * x``, or x where there is no factor.

    Args:
        factor: broadcast to x; None: one.
        x: any array.
    """
    return x if factor is None else factor * x


def places(length: int) -> tuple[Array, Array]:
    """Row and column numbers of a ``[length, length]`` matrix.

    Args:
        length: rows and columns.
    """
    shape = (length, length)
    return (
        jax.lax.broadcasted_iota(jnp.int32, shape, 0),
        jax.lax.broadcasted_iota(jnp.int32, shape, 1),
    )


def column(row: Float[Array, "1 R"]) -> Float[Array, "R 1"]:
    """A row as a column by a masked sum: a reshape of lanes to sublanes does not lower on every TPU.

    Args:
        row: one row.
    """
    i, j = places(row.shape[-1])
    return row_sum(jnp.where(i == j, row, 0.0))


def last(row: Float[Array, "1 R"]) -> Float[Array, "1 1"]:
    """The last entry of a row by a masked sum: GPUs have no slices of rows.

    Args:
        row: one row.
    """
    i = jax.lax.broadcasted_iota(jnp.int32, row.shape, 1)
    return row_sum(jnp.where(i == row.shape[1] - 1, row, 0.0))


def inverse_unit_lower(
    strict: Float[Array, "R R"], operand: jnp.dtype | None = None
) -> Float[Array, "R R"]:
    """(I + L)^-1 for a strictly lower triangular L.

    Of [[A, 0], [C, B]] it is [[A^-1, 0], [-B^-1 C A^-1, B^-1]]. All blocks of a size are joined at once by
    masked products of whole matrices, and what is left over at the end needs no special case. (The shorter
    product (I - L)(I + L^2)(I + L^4)... is of no use here: where keys repeat, powers of L grow beyond
    1e20 before they vanish, and float32 keeps nothing of an inverse whose entries are near 1.)

    Args:
        strict: L; what it has on and above the diagonal must be zero.
        operand: dtype of the products' operands; None: that of L, in full precision. With bfloat16, in which a matrix
            unit takes a sixth of the passes, the inverse is as near as what bfloat16 rounds L to.
    """
    operand = strict.dtype if operand is None else operand
    precision = "highest" if operand == strict.dtype else "default"
    size = strict.shape[-1]
    row, col = places(size)
    inverse, level = (row == col).astype(strict.dtype), 0
    while (1 << level) < size:  # shifts, because kernels run this too
        block, other = row >> level, col >> level
        below = (block == other + 1) & ((block & 1) == 1)  # C of every pair
        with jax.default_matmul_precision(precision):
            joined = dot(inverse, jnp.where(below, strict, 0.0), NN, operand)
            inverse = inverse - dot(joined, inverse, NN, operand)
        level += 1
    return inverse


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def solve_unit_lower(
    strict: Float[Array, "R R"], right: Float[Array, "R K"], operand: jnp.dtype
) -> Float[Array, "R K"]:
    """The x of (I + L) x = right for a strictly lower triangular L.

    The VJP is two products with the inverse: d right = (I + L)^-T dx, and dL is what -d right x^T has below the
    diagonal.

    Args:
        strict: L; what it has on and above the diagonal must be zero.
        right: right sides, one a column.
        operand: dtype of the operands of all products.
    """
    return _solve_forward(strict, right, operand)[0]


def _solve_forward(strict, right, operand):
    inverse = inverse_unit_lower(strict, operand)
    x = dot(inverse, right, NN, operand)
    return x, (inverse, x)


def _solve_backward(operand, residuals, dx):
    inverse, x = residuals
    d_right = dot(inverse, dx, TN, operand)
    row, col = places(inverse.shape[0])
    return jnp.where(row > col, -dot(d_right, x, NT, operand), 0.0), d_right


solve_unit_lower.defvjp(_solve_forward, _solve_backward)
