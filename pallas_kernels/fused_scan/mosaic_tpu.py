"""`fused_scan` on TPU: one Pallas kernel forward and one backward.

The grid is (groups / groups_per_step, chunks) forward and (groups / groups_per_step, segments)
backward, groups in parallel, chunks in order. The carry, and in backward its cotangent, stays in
VMEM scratch from a group's first chunk to its last; tokens, outputs and saved carries stream
through blocks that the pipeline double-buffers. The first carry comes and the last one leaves by DMA:
as blocks their copies to and from scratch, once a sequence, would be an eighth of the grid step's
bundles. Everything that repeats within a grid step, the groups of ``groups_per_step`` and the chunks of
a backward segment, is unrolled: independent groups then fill each other's latency.

Layout. A block's last two axes are a leaf's rows and columns, padded to tiles of (8, 128) 32-bit
words, so a column ``[R, 1]`` takes R x 128 words in HBM and in VMEM: pass per-token scalars as rows
``[1, R]``, and turn them inside the step.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu
from jax.sharding import NamedSharding, PartitionSpec

from pallas_kernels.fused_scan.blocking import Blocking, Cut
from pallas_kernels.fused_scan.leaves import Refs, load, outputs, store
from pallas_kernels.fused_scan.vjp import Leaves, Problem, Shapes

#: False to compile, or how to interpret.
Interpret = pltpu.InterpretParams | bool

#: Blocks hold all rows and columns. A Python integer would be an int64 under x64, which Mosaic refuses.
ORIGIN = np.int32(0)


def forward(
    problem: Problem,
    consts: Leaves,
    carry: Leaves,
    xs: Leaves,
    *,
    save: bool,
    cut: Cut,
    interpret: Interpret,
) -> tuple[Leaves, Leaves, Leaves]:
    """See vjp.py.

    Args:
        problem: what to run.
        consts: ``[Gc, rows, cols]``.
        carry: ``[G, rows, cols]``.
        xs: ``[G, N, rows, cols]``.
        save: whether to return the carries at the segments' starts.
        cut: gives the groups per grid step and the VMEM limit.
        interpret: see `Interpret`.
    """
    blocking = cut(problem, "forward")
    groups, every = blocking.groups_per_step, problem.checkpoint_every
    last = problem.chunks - 1

    def kernel(consts_ref, start_ref, x_ref, end_ref, y_ref, saved_ref, carry_ref, sems):
        block, chunk = pl.program_id(0), pl.program_id(1)
        here = pl.ds(block * groups, groups)

        @pl.when(chunk == 0)
        def _():
            _transfer(_slices(start_ref, here), carry_ref, sems)

        if save and every > 1:
            # Before the step loads the carry, so that none of it waits in registers for the branch.
            @pl.when(chunk % every == 0)
            def _():
                store(saved_ref, ..., problem.to_saved(load(carry_ref, ...)))

        # All groups read before any writes, so that nothing orders one group's work after another's.
        carries = [load(carry_ref, g) for g in range(groups)]
        if save and every == 1:
            # From the step's own loads: what its products round is then rounded once.
            for g, carry in enumerate(carries):
                store(saved_ref, g, problem.to_saved(carry))
        results = [
            problem.step(_constants(consts_ref, g), carries[g], load(x_ref, g))
            for g in range(groups)
        ]
        for g, (carry, y) in enumerate(results):
            store(carry_ref, g, carry)
            store(y_ref, g, y)

        @pl.when(chunk == last)
        def _():
            _transfer(carry_ref, _slices(end_ref, here), sems)

    def by_chunk(i, n):
        return i, n, ORIGIN, ORIGIN

    def by_segment(i, n):
        return i, n // every, ORIGIN, ORIGIN

    saved = problem.saved if save else ()
    return pl.pallas_call(
        kernel,
        grid=(problem.groups // groups, problem.chunks),
        in_specs=(
            _constant_specs(problem, groups),
            _in_hbm(problem.carry),
            _specs(problem.x, (groups, None), by_chunk),
        ),
        out_specs=(
            _in_hbm(problem.carry),
            _specs(problem.y, (groups, None), by_chunk),
            _specs(saved, (groups, None), by_segment),
        ),
        out_shape=(
            _arrays_in_hbm(problem.carry, (problem.groups,), xs),
            outputs(problem.y, (problem.groups, problem.chunks), xs),
            outputs(saved, (problem.groups, problem.segments), xs),
        ),
        scratch_shapes=[_scratch(problem.carry, (groups,)), _semaphores(problem.carry)],
        compiler_params=_compiler_params(blocking),
        interpret=interpret,
        name="fused_scan_forward",
    )(consts, _from_hbm(carry, interpret), xs)


def backward(
    problem: Problem,
    consts: Leaves,
    saved: Leaves,
    xs: Leaves,
    d_carry: Leaves,
    d_ys: Leaves,
    *,
    cut: Cut,
    interpret: Interpret,
) -> tuple[Leaves, Leaves, Leaves]:
    """See vjp.py.

    Args:
        problem: what to run.
        consts: ``[Gc, rows, cols]``.
        saved: ``[G, segments, rows, cols]``.
        xs: ``[G, N, rows, cols]``.
        d_carry: cotangent of the final carry, ``[G, rows, cols]``.
        d_ys: ``[G, N, rows, cols]``.
        cut: gives the groups per grid step and the VMEM limit.
        interpret: see `Interpret`.
    """
    blocking = cut(problem, "backward")
    groups, every = blocking.groups_per_step, problem.checkpoint_every
    last = problem.segments - 1
    ragged = problem.chunks % every != 0

    def kernel(
        consts_ref,
        saved_ref,
        x_ref,
        d_end_ref,
        d_y_ref,
        d_consts_ref,
        d_start_ref,
        d_x_ref,
        d_carry_ref,
        carries_ref,
        sems,
    ):
        block, step = pl.program_id(0), pl.program_id(1)
        here = pl.ds(block * groups, groups)

        @pl.when(step == 0)
        def _():
            _transfer(_slices(d_end_ref, here), d_carry_ref, sems)
            for ref in d_consts_ref:
                ref[...] = jnp.zeros(ref.shape, ref.dtype)

        def carry_before(c, g):
            """The carry of group g before the segment's chunk c; scratch holds all but the first."""
            return (
                problem.from_saved(load(saved_ref, g)) if c == 0 else load(carries_ref, (c - 1, g))
            )

        for c in range(every - 1):
            ends = [
                problem.step(_constants(consts_ref, g), carry_before(c, g), load(x_ref, (g, c)))[0]
                for g in range(groups)
            ]
            for g, carry in enumerate(ends):
                store(carries_ref, (c, g), carry)

        for c in reversed(range(every)):
            results = [
                problem.step_vjp(
                    _constants(consts_ref, g),
                    carry_before(c, g),
                    load(x_ref, (g, c)),
                    load(d_carry_ref, g),
                    load(d_y_ref, (g, c)),
                )
                for g in range(groups)
            ]
            # Past the end of the sequence a block holds nothing: such a chunk's results are dropped.
            real = (last - step) * every + c < problem.chunks if ragged and c else None
            for g, (d_consts, d_carry, d_x) in enumerate(results):
                store(d_carry_ref, g, _keep(real, d_carry, load(d_carry_ref, g)))
                store(d_x_ref, (g, c), d_x)
                sums = tuple(
                    ref[g] + d.astype(ref.dtype)
                    for ref, d in zip(d_consts_ref, d_consts, strict=True)
                )
                store(d_consts_ref, g, _keep(real, sums, load(d_consts_ref, g)))

        @pl.when(step == last)
        def _():
            _transfer(d_carry_ref, _slices(d_start_ref, here), sems)

    def by_segment(i, s):
        return i, last - s, ORIGIN, ORIGIN

    return pl.pallas_call(
        kernel,
        grid=(problem.groups // groups, problem.segments),
        in_specs=(
            _constant_specs(problem, groups),
            _specs(problem.saved, (groups, None), by_segment),
            _specs(problem.x, (groups, every), by_segment),
            _in_hbm(problem.carry),
            _specs(problem.y, (groups, every), by_segment),
        ),
        out_specs=(
            _specs(problem.d_consts, (groups,), _by_group),
            _in_hbm(problem.carry),
            _specs(problem.x, (groups, every), by_segment),
        ),
        out_shape=(
            outputs(problem.d_consts, (problem.groups,), xs),
            _arrays_in_hbm(problem.carry, (problem.groups,), xs),
            outputs(problem.x, (problem.groups, problem.chunks), xs),
        ),
        scratch_shapes=[
            _scratch(problem.carry, (groups,)),
            _scratch(problem.carry, (every - 1, groups)) if every > 1 else (),
            _semaphores(problem.carry),
        ],
        compiler_params=_compiler_params(blocking),
        interpret=interpret,
        name="fused_scan_backward",
    )(consts, saved, xs, _from_hbm(d_carry, interpret), d_ys)


def _compiler_params(blocking: Blocking) -> pltpu.CompilerParams:
    return pltpu.CompilerParams(
        dimension_semantics=("parallel", "arbitrary"),
        vmem_limit_bytes=blocking.vmem_limit_bytes,
    )


def _by_group(i, _):
    return i, ORIGIN, ORIGIN


def _specs(
    shapes: Shapes, lead: tuple[int | None, ...], index_map: Any
) -> tuple[pl.BlockSpec, ...]:
    """Blocks of whole 2-D leaves behind leading axes ``lead``."""
    return tuple(pl.BlockSpec((*lead, *s.shape), index_map) for s in shapes)


def _constant_specs(problem: Problem, groups: int) -> tuple[pl.BlockSpec, ...]:
    """Blocks of the constants that one grid step's groups use (blocking.py: one divides the other)."""

    def spec(shape, sharers):
        block = min(groups, sharers)
        return pl.BlockSpec(
            (block, *shape.shape), lambda i, _: (i % (sharers // block), ORIGIN, ORIGIN)
        )

    return tuple(map(spec, problem.consts, problem.sharers))


def _scratch(shapes: Shapes, lead: tuple[int, ...]) -> tuple[Any, ...]:
    return tuple(pltpu.VMEM((*lead, *s.shape), s.dtype) for s in shapes)


def _in_hbm(shapes: Shapes) -> tuple[pl.BlockSpec, ...]:
    """Whole leaves where they are: the kernel moves them itself."""
    return tuple(pl.BlockSpec(memory_space=pltpu.HBM) for _ in shapes)


def _arrays_in_hbm(shapes: Shapes, lead: tuple[int, ...], like: Leaves) -> tuple[Any, ...]:
    """As `outputs`, never placed in VMEM by the compiler: DMAs there would become copies by registers."""
    mesh = jax.typeof(like[0]).sharding.mesh

    def array(s):
        sharding = NamedSharding(mesh, PartitionSpec(*[None] * len(s.shape)))
        aval = jax.core.ShapedArray(
            s.shape, s.dtype, sharding=sharding, manual_axis_type=s.manual_axis_type
        )
        return pltpu.HBM.from_type(aval)

    return tuple(map(array, outputs(shapes, lead, like)))


def _from_hbm(leaves: Leaves, interpret: Interpret) -> Leaves:
    """Inputs that the compiler may not place in VMEM, for the same reason; there is no compiler to interpret."""
    if interpret:
        return leaves
    return tuple(pltpu.with_memory_space_constraint(leaf, pltpu.HBM) for leaf in leaves)


def _semaphores(shapes: Shapes) -> Any:
    """One for each leaf, and at least one, because an array of none cannot be allocated."""
    return pltpu.SemaphoreType.DMA((max(1, len(shapes)),))


def _constants(refs: Refs, group: int) -> Leaves:
    return tuple(ref[group % ref.shape[0]] for ref in refs)


def _slices(refs: Refs, *index: Any) -> Refs:
    return tuple(ref.at[index] for ref in refs)


def _transfer(sources: Refs, targets: Refs, sems: Any) -> None:
    """Copies every leaf by DMA."""
    copies = [
        pltpu.make_async_copy(source, target, sems.at[np.int32(i)])
        for i, (source, target) in enumerate(zip(sources, targets, strict=True))
    ]
    for copy in copies:
        copy.start()
    for copy in copies:
        copy.wait()


def _keep(real: jax.Array | None, new: Leaves, old: Leaves) -> Leaves:
    """``new``, unless ``real`` says that the chunk lies past the end of the sequence."""
    if real is None:
        return new
    return tuple(jnp.where(real, n, o) for n, o in zip(new, old, strict=True))
