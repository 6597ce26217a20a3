"""Counts the matmuls of a function from its jaxpr, and bounds their time on a chip.

The bound of a forward chunk is that of the memory's own algebra (`titans_jax.memory.dual.tile_update`), however
the kernel writes it, so that a kernel gains nothing by multiplying more. The bound of a backward chunk is its
recomputation plus two products for each matmul, three times forward's.
"""

import math
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import jax
from jax.extend import core

from pallas_kernels.chips import Chip
from pallas_kernels.fused_scan.jaxprs import called

BACKWARD_OVER_FORWARD = 3


class Matmul(NamedTuple):
    """``times`` products [rows, inner] @ [inner, columns]."""

    times: int
    rows: int
    inner: int
    columns: int

    @property
    def flops(self) -> int:
        """Multiplications and additions, without padding."""
        return 2 * self.times * self.rows * self.inner * self.columns


def matmuls(fn: Callable[..., Any], *arguments: Any) -> list[Matmul]:
    """Every product that ``fn`` computes, in program order; those in a scan count once per trip.

    Args:
        fn: the function.
        *arguments: pytrees of arrays or ``jax.ShapeDtypeStruct``.

    Raises:
        ValueError: if there are matmuls in a while loop, whose trips are unknown.
    """
    return _count(jax.make_jaxpr(fn)(*arguments).jaxpr, 1)


def bound_cycles(products: list[Matmul], chip: Chip) -> float:
    """Fewest cycles of one core, in one bf16 pass; either operand of a product may be the stationary one."""
    return sum(
        p.times
        * min(
            chip.matmul_cycles(p.rows, p.inner, p.columns),
            chip.matmul_cycles(p.columns, p.inner, p.rows),
        )
        for p in products
    )


def _count(jaxpr: core.Jaxpr, times: int) -> list[Matmul]:
    found = []
    for equation in jaxpr.eqns:
        name, params = equation.primitive.name, equation.params
        if name == "dot_general":
            found.append(_matmul(equation, times))
        elif name == "scan":
            found += _count(params["jaxpr"].jaxpr, times * params["length"])
        elif name == "cond":
            branches = [_count(branch.jaxpr, times) for branch in params["branches"]]
            found += max(branches, key=lambda branch: sum(p.flops for p in branch))
        else:
            inner = [p for sub in called(equation) for p in _count(sub, times)]
            if inner and name == "while":
                raise ValueError("a while loop with matmuls: its trips are unknown; use a scan")
            found += inner
    return found


def _matmul(equation: Any, times: int) -> Matmul:
    left, right = (v.aval.shape for v in equation.invars)
    (contract, right_contract), (batch, right_batch) = equation.params["dimension_numbers"]

    def size(shape: tuple[int, ...], axes: Iterable[int]) -> int:
        return math.prod(shape[axis] for axis in axes)

    free = set(range(len(left))) - {*contract, *batch}
    right_free = set(range(len(right))) - {*right_contract, *right_batch}
    return Matmul(
        times * size(left, batch), size(left, free), size(left, contract), size(right, right_free)
    )
