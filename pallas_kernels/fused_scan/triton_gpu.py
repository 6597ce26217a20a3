"""`fused_scan` on NVIDIA GPUs: Pallas kernels that lower to Triton, one program per group.

A program loops over its group's chunks with the carry in registers; backward it loops over segments
in reverse with the carry's cotangent, and the float32 sums for the constants, in registers. A
segment's chunks are unrolled, because registers have no dynamic index.

It is for small steps. Run on an H200: with a carry of two 32 x 32 matrices and 16 tokens it is right forward and
backward; with 64 x 64 matrices and 64 tokens it is right forward, and in bfloat16 faster than the scan over chunks,
but backward asks for more shared memory than a multiprocessor has (XLA says RESOURCE_EXHAUSTED), or Triton compiles
it for minutes. So no default runs it.

Triton wants every array's sides to be powers of two and every side of a matmul at least 16 and its operands
of one dtype; it has no slices and no general concatenation. `check_step` finds what breaks this before lowering.
"""

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton as plgpu
from jax.extend.core import Jaxpr

from pallas_kernels.fused_scan.jaxprs import equations, without_custom_rules
from pallas_kernels.fused_scan.leaves import load, outputs, store
from pallas_kernels.fused_scan.vjp import (
    Leaves,
    Problem,
    Shapes,
    UnsupportedError,
)

#: 64 Ki registers of 32 bits, which one multiprocessor of every generation since Kepler has.
REGISTER_FILE = 256 * 2**10
#: Least side of a matmul's operands in Triton.
LEAST_MATMUL = 16
#: Eight warps of 255 registers per thread reach the whole register file.
WARPS = 8
#: Blocks hold all rows and columns. A Python 0 would be an int64 under x64.
ORIGIN = np.int32(0)


def check_carry(problem: Problem) -> None:
    """Raises `UnsupportedError` where registers cannot hold what backward keeps of the carry."""
    carry = sum(math.prod(s.shape) * s.dtype.itemsize for s in problem.carry)
    copies = problem.checkpoint_every + 2
    if copies * carry > REGISTER_FILE:
        raise UnsupportedError(
            f"on a GPU fused_scan holds {copies} copies of the carry backward (checkpoint_every = "
            f"{problem.checkpoint_every}, its cotangent and the next one), {copies * carry} bytes, but the register "
            f"file has {REGISTER_FILE}: make the carry or checkpoint_every smaller, or use implementation='xla'"
        )


def check_step(problem: Problem) -> None:
    """Raises `UnsupportedError` where Triton lacks what the step or its VJP does."""
    primals = (problem.consts, problem.carry, problem.x)
    step = jax.make_jaxpr(problem.step)(*primals).jaxpr
    vjp = jax.make_jaxpr(problem.step_vjp)(*primals, problem.carry, problem.y).jaxpr
    reason = _unsupported_operation(step) or _unsupported_operation(vjp)
    if reason is not None:
        raise UnsupportedError(
            f"fused_scan cannot use Triton: {reason}, or use implementation='xla'"
        )


def _unsupported_operation(jaxpr: Jaxpr) -> str | None:
    avals: list[tuple[str, Any]] = [("an argument of the step", v.aval) for v in jaxpr.invars]
    avals += [(f"a result of {e.primitive}", v.aval) for e in equations(jaxpr) for v in e.outvars]
    for what, aval in avals:
        shape = aval.shape
        if any(side & (side - 1) for side in shape):
            return f"{what} has shape {shape}: every side must be a power of two"
    for eqn in equations(jaxpr):
        if eqn.primitive.name == "dot_general":
            operands: list[Any] = [v.aval for v in eqn.invars]
            shapes = [a.shape for a in operands]
            if min(side for shape in shapes for side in shape) < LEAST_MATMUL:
                return f"a matmul of shapes {shapes[0]} and {shapes[1]} has a side below {LEAST_MATMUL}"
            left, right = (a.dtype for a in operands)
            if left != right:
                return f"a matmul has operands of {left} and {right}: cast them to one dtype"
        if eqn.primitive.name in ("slice", "dynamic_slice", "gather", "scatter", "pad"):
            return f"the step uses {eqn.primitive}, which Triton lacks: select with a mask and sum"
    return None


def forward(
    problem: Problem,
    consts: Leaves,
    carry: Leaves,
    xs: Leaves,
    *,
    save: bool,
    interpret: bool,
) -> tuple[Leaves, Leaves, Leaves]:
    """See vjp.py.

    Args:
        problem: what to run.
        consts: ``[Gc, rows, cols]``.
        carry: ``[G, rows, cols]``.
        xs: ``[G, N, rows, cols]``.
        save: whether to return the carries at the segments' starts.
        interpret: run on any platform.
    """

    step = without_custom_rules(problem.step)

    def kernel(consts_ref, start_ref, x_ref, end_ref, y_ref, saved_ref):
        constants = _all(consts_ref)

        def one_chunk(chunk, carry):
            carry, y = step(constants, carry, load(x_ref, chunk))
            store(y_ref, chunk, y)
            return carry

        def segment(index, carry, length):
            if save:
                store(saved_ref, index, problem.to_saved(carry))
            start = index * problem.checkpoint_every
            return jax.lax.fori_loop(start, start + np.int32(length), one_chunk, carry)

        full, rest = divmod(problem.chunks, problem.checkpoint_every)
        carry = jax.lax.fori_loop(
            np.int32(0),
            np.int32(full),
            lambda i, carry: segment(i, carry, problem.checkpoint_every),
            _all(start_ref),
        )
        if rest:
            carry = segment(np.int32(full), carry, rest)
        for ref, value in zip(end_ref, carry, strict=True):
            ref[...] = value

    groups, chunks = problem.groups, problem.chunks
    saved = problem.saved if save else ()
    return pl.pallas_call(
        kernel,
        grid=(groups,),
        in_specs=(_constant_specs(problem), _specs(problem.carry), _specs(problem.x, chunks)),
        out_specs=(
            _specs(problem.carry),
            _specs(problem.y, chunks),
            _specs(saved, problem.segments),
        ),
        out_shape=(
            outputs(problem.carry, (groups,), xs),
            outputs(problem.y, (groups, chunks), xs),
            outputs(saved, (groups, problem.segments), xs),
        ),
        compiler_params=plgpu.CompilerParams(num_warps=WARPS),
        interpret=interpret,
        name="fused_scan_forward",
    )(consts, carry, xs)


def backward(
    problem: Problem,
    consts: Leaves,
    saved: Leaves,
    xs: Leaves,
    d_carry: Leaves,
    d_ys: Leaves,
    *,
    interpret: bool,
) -> tuple[Leaves, Leaves, Leaves]:
    """See vjp.py.

    Args:
        problem: what to run.
        consts: ``[Gc, rows, cols]``.
        saved: ``[G, segments, rows, cols]``.
        xs: ``[G, N, rows, cols]``.
        d_carry: cotangent of the final carry, ``[G, rows, cols]``.
        d_ys: ``[G, N, rows, cols]``.
        interpret: run on any platform.
    """

    step = without_custom_rules(problem.step)
    step_vjp = without_custom_rules(problem.step_vjp)

    def kernel(
        consts_ref, saved_ref, x_ref, d_end_ref, d_y_ref, d_consts_ref, d_start_ref, d_x_ref
    ):
        constants = _all(consts_ref)

        def segment(index, state, length):
            d_consts, d_carry = state
            start = index * problem.checkpoint_every
            carries = [problem.from_saved(load(saved_ref, index))]
            for c in range(length - 1):
                carries.append(step(constants, carries[-1], load(x_ref, start + c))[0])
            for c in reversed(range(length)):
                more, d_carry, d_x = step_vjp(
                    constants, carries[c], load(x_ref, start + c), d_carry, load(d_y_ref, start + c)
                )
                store(d_x_ref, start + c, d_x)
                d_consts = tuple(s + d.astype(s.dtype) for s, d in zip(d_consts, more, strict=True))
            return d_consts, d_carry

        full, rest = divmod(problem.chunks, problem.checkpoint_every)
        state = (tuple(jnp.zeros(s.shape, s.dtype) for s in problem.d_consts), _all(d_end_ref))
        if rest:
            state = segment(np.int32(full), state, rest)
        sums, d_start = jax.lax.fori_loop(
            np.int32(0),
            np.int32(full),
            lambda i, state: segment(full - 1 - i, state, problem.checkpoint_every),
            state,
        )
        for ref, value in zip((*d_consts_ref, *d_start_ref), (*sums, *d_start), strict=True):
            ref[...] = value

    groups, chunks = problem.groups, problem.chunks
    return pl.pallas_call(
        kernel,
        grid=(groups,),
        in_specs=(
            _constant_specs(problem),
            _specs(problem.saved, problem.segments),
            _specs(problem.x, chunks),
            _specs(problem.carry),
            _specs(problem.y, chunks),
        ),
        out_specs=(_specs(problem.d_consts), _specs(problem.carry), _specs(problem.x, chunks)),
        out_shape=(
            outputs(problem.d_consts, (groups,), xs),
            outputs(problem.carry, (groups,), xs),
            outputs(problem.x, (groups, chunks), xs),
        ),
        compiler_params=plgpu.CompilerParams(num_warps=WARPS),
        interpret=interpret,
        name="fused_scan_backward",
    )(consts, saved, xs, d_carry, d_ys)


def _specs(shapes: Shapes, *lead: int) -> tuple[pl.BlockSpec, ...]:
    """One group's leaves with leading axes ``lead``: pointers, of which a chunk at a time is loaded."""

    def index_map(g):
        return (g,) + (ORIGIN,) * (len(lead) + 2)

    return tuple(pl.BlockSpec((None, *lead, *s.shape), index_map) for s in shapes)


def _constant_specs(problem: Problem) -> tuple[pl.BlockSpec, ...]:
    def spec(shape, sharers):
        return pl.BlockSpec((None, *shape.shape), lambda g: (g % sharers, ORIGIN, ORIGIN))

    return tuple(map(spec, problem.consts, problem.sharers))


def _all(refs: tuple[Any, ...]) -> Leaves:
    return tuple(ref[...] for ref in refs)
