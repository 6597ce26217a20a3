"""`fused_scan` by ``lax.scan`` and ``vmap``: the execution without a kernel.

Chunks are scanned in segments of ``checkpoint_every``. Forward keeps the carry at each segment's
start; backward finds the carries of a segment again and walks it back with the step's VJP. A last,
shorter segment stands outside the loop over the full ones.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp

from pallas_kernels.fused_scan.vjp import Leaves, Problem, accumulator_dtype

PyTree = Any


def forward(
    problem: Problem, consts: Leaves, carry: Leaves, xs: Leaves, *, save: bool
) -> tuple[Leaves, Leaves, Leaves]:
    """See vjp.py."""

    def one_group(consts, carry, xs):
        step = functools.partial(problem.step, consts)

        def segment(carry, xs):
            end, ys = jax.lax.scan(step, carry, xs)
            return end, (ys, problem.to_saved(carry) if save else ())

        full, rest = _segments(problem, xs)
        carry, (ys, saved) = jax.lax.scan(segment, carry, full)
        ys = _join_chunks(ys)  # [N or less, rows, cols]
        if rest is None:
            return carry, ys, saved
        carry, (last_ys, last_saved) = segment(carry, rest)
        return carry, _append(ys, last_ys), _append(saved, _lead(last_saved))

    axes = _consts_axes(problem)
    return jax.vmap(one_group, in_axes=(axes, 0, 0))(_spread(problem, consts), carry, xs)


def backward(
    problem: Problem, consts: Leaves, saved: Leaves, xs: Leaves, d_carry: Leaves, d_ys: Leaves
) -> tuple[Leaves, Leaves, Leaves]:
    """See vjp.py."""

    def one_group(consts, saved, xs, d_carry, d_ys):
        def one_chunk(state, inputs):
            d_consts, d_carry = state
            carry, x, d_y = inputs
            more, d_carry, d_x = problem.step_vjp(consts, carry, x, d_carry, d_y)
            return (tuple(map(jnp.add, d_consts, more)), d_carry), d_x

        def segment(state, inputs):
            start, xs, d_ys = inputs
            carries = _carries(problem, consts, problem.from_saved(start), xs)
            return jax.lax.scan(one_chunk, state, (carries, xs, d_ys), reverse=True)

        full, rest = _segments(problem, (xs, d_ys))
        zeros = tuple(jnp.zeros_like(c, accumulator_dtype(c.dtype)) for c in consts)
        state, last_d_xs = (zeros, d_carry), None
        if rest is not None:
            last = jax.tree.map(lambda s: s[-1], saved)
            saved = jax.tree.map(lambda s: s[:-1], saved)
            state, last_d_xs = segment(state, (last, *rest))
        state, d_xs = jax.lax.scan(segment, state, (saved, *full), reverse=True)
        d_xs = _join_chunks(d_xs)
        return *state, d_xs if rest is None else _append(d_xs, last_d_xs)

    axes = _consts_axes(problem)
    return jax.vmap(one_group, in_axes=(axes, 0, 0, 0, 0))(
        _spread(problem, consts), saved, xs, d_carry, d_ys
    )


def _carries(problem: Problem, consts: Leaves, start: Leaves, xs: Leaves) -> Leaves:
    """The carry before each chunk of a segment, ``[chunks, rows, cols]``, from the first."""
    if xs[0].shape[0] == 1:
        return _lead(start)

    def one_chunk(carry, x):
        return problem.step(consts, carry, x)[0], carry

    last, carries = jax.lax.scan(one_chunk, start, jax.tree.map(lambda a: a[:-1], xs))
    return _append(carries, _lead(last))


def _segments(problem: Problem, tree: PyTree) -> tuple[PyTree, PyTree]:
    """Leaves ``[N, ...]`` as full segments ``[segments, chunks, ...]``, and the rest or None."""
    length = problem.checkpoint_every
    full = problem.chunks // length * length
    segments = jax.tree.map(lambda a: a[:full].reshape(-1, length, *a.shape[1:]), tree)
    if full == problem.chunks:
        return segments, None
    return segments, jax.tree.map(lambda a: a[full:], tree)


def _join_chunks(tree: PyTree) -> PyTree:
    return jax.tree.map(lambda a: a.reshape(-1, *a.shape[2:]), tree)


def _append(tree: PyTree, more: PyTree) -> PyTree:
    return jax.tree.map(lambda a, b: jnp.concatenate([a, b]), tree, more)


def _lead(tree: PyTree) -> PyTree:
    return jax.tree.map(lambda a: a[None], tree)


def _consts_axes(problem: Problem) -> tuple[int | None, ...]:
    """A constant that all groups share is not batched: its products are then one large matmul."""
    return tuple(None if sharers == 1 else 0 for sharers in problem.sharers)


def _spread(problem: Problem, consts: Leaves) -> Leaves:
    """Constants ``[Gc, ...]`` for every group, ``[G, ...]``, or one group's where all share it."""

    def spread(const, sharers):
        if sharers == 1:
            return const[0]
        return jnp.tile(const, (problem.groups // sharers, 1, 1))

    return tuple(map(spread, consts, problem.sharers))
