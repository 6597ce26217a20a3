"""The problem that every execution solves, and its one ``custom_vjp``.

An execution is a pair of functions on flat tuples of leaves:

    forward(problem, consts, carry, xs, save)            -> carry, ys, saved
    backward(problem, consts, saved, xs, d_carry, d_ys)  -> d_consts, d_carry, d_xs

``saved`` holds the carry at the start of every segment of ``checkpoint_every`` chunks,
``[G, segments, rows, cols]``, in ``saved_dtype``. ``d_consts`` comes back per group, ``[G, rows, cols]``, in at least
float32; this file sums it over the groups that share a constant.
"""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

Array = jax.Array
Leaves = tuple[Array, ...]
Shapes = tuple[jax.ShapeDtypeStruct, ...]

#: ``(consts, carry, x) -> (carry, y)`` on tuples of 2-D leaves.
FlatStep = Callable[[Leaves, Leaves, Leaves], tuple[Leaves, Leaves]]
#: ``(consts, carry, x, d_carry, d_y) -> (d_consts, d_carry, d_x)`` on tuples of 2-D leaves.
FlatStepVJP = Callable[[Leaves, Leaves, Leaves, Leaves, Leaves], tuple[Leaves, Leaves, Leaves]]


class UnsupportedError(ValueError):
    """A kernel cannot run a problem; the message says why and what would do."""


@dataclasses.dataclass(frozen=True)
class Problem:
    """A fused scan with its pytrees flattened and its shapes checked.

    Attributes:
        step: the user's step on flat leaves.
        step_vjp: its VJP on flat leaves, given or derived.
        groups: G.
        chunks: N.
        checkpoint_every: chunks per segment, from 1 to N.
        consts, carry, x, y: shapes and dtypes of one group's 2-D leaves at one chunk.
        sharers: Gc of every constant; group g uses constant g % Gc.
        saved_dtype: in which carries are saved for backward; None for their own.
    """

    step: FlatStep
    step_vjp: FlatStepVJP
    groups: int
    chunks: int
    checkpoint_every: int
    consts: Shapes
    carry: Shapes
    x: Shapes
    y: Shapes
    sharers: tuple[int, ...]
    saved_dtype: Any = None

    @property
    def saved(self) -> Shapes:
        """Shapes of one group's saved carry."""
        if self.saved_dtype is None:
            return self.carry
        return tuple(jax.ShapeDtypeStruct(c.shape, self.saved_dtype) for c in self.carry)

    def to_saved(self, carry: Leaves) -> Leaves:
        """A carry as it is saved."""
        return tuple(c.astype(s.dtype) for c, s in zip(carry, self.saved, strict=True))

    def from_saved(self, saved: Leaves) -> Leaves:
        """The carry that backward starts from, in the carry's own dtypes."""
        return tuple(s.astype(c.dtype) for s, c in zip(saved, self.carry, strict=True))

    @property
    def segments(self) -> int:
        """Segments of ``checkpoint_every`` chunks; the last may be shorter."""
        return -(-self.chunks // self.checkpoint_every)

    @property
    def d_consts(self) -> Shapes:
        """Shapes of one group's cotangents of the constants, in the dtype in which they are summed."""
        return tuple(jax.ShapeDtypeStruct(c.shape, accumulator_dtype(c.dtype)) for c in self.consts)


class Execution(NamedTuple):
    """What runs a problem (module docstring)."""

    forward: Callable[..., tuple[Leaves, Leaves, Leaves]]
    backward: Callable[..., tuple[Leaves, Leaves, Leaves]]


def derived_step_vjp(step: FlatStep) -> FlatStepVJP:
    """The VJP of a step by ``jax.vjp``; in a kernel it is traced into the kernel's body."""

    def step_vjp(consts, carry, x, d_carry, d_y):
        _, pull = jax.vjp(step, consts, carry, x)
        return pull((d_carry, d_y))

    return step_vjp


def accumulator_dtype(dtype: Any) -> Any:
    """The dtype in which cotangents of constants are summed: float32, or the constant's if wider."""
    return jnp.promote_types(dtype, jnp.float32)


def differentiable(
    problem: Problem, execution: Execution
) -> Callable[[Leaves, Leaves, Leaves], tuple[Leaves, Leaves]]:
    """``(consts, carry, xs) -> (carry, ys)``, differentiable any number of times in reverse mode.

    Args:
        problem: what to run.
        execution: what runs it, forward and backward.
    """

    @jax.custom_vjp
    def scan(consts: Leaves, carry: Leaves, xs: Leaves) -> tuple[Leaves, Leaves]:
        carry, ys, _ = execution.forward(problem, consts, carry, xs, save=False)
        return carry, ys

    def forward(consts: Leaves, carry: Leaves, xs: Leaves) -> Any:
        carry, ys, saved = execution.forward(problem, consts, carry, xs, save=True)
        return (carry, ys), (consts, saved, xs)

    def backward(residuals, cotangents):
        consts, saved, xs = residuals
        d_carry, d_ys = cotangents
        per_group, d_carry, d_xs = execution.backward(problem, consts, saved, xs, d_carry, d_ys)
        return _sum_sharers(problem, per_group), d_carry, d_xs

    scan.defvjp(forward, backward)
    return scan


def _sum_sharers(problem: Problem, per_group: Leaves) -> Leaves:
    """Cotangents of the constants ``[Gc, rows, cols]`` from those of every group ``[G, ...]``."""

    def total(d_const, shape, sharers):
        by_const = d_const.reshape(-1, sharers, *shape.shape)  # [G / Gc, Gc, rows, cols]
        return jnp.sum(by_const, axis=0).astype(shape.dtype)

    return tuple(map(total, per_group, problem.consts, problem.sharers))


def fold_vmap(execution: Execution) -> Execution:
    """An execution under which ``jax.vmap`` means more groups, not another axis of the grid."""

    def fold(run: Callable[..., Any]) -> Callable[..., Any]:
        def folded(problem: Problem, *args: Leaves, **options: bool) -> Any:
            @jax.custom_batching.custom_vmap
            def call(*args):
                return run(problem, *args, **options)

            @call.def_vmap
            def _(size, batched, *args):
                more, args = _more_groups(problem, size, batched, args)
                outputs = folded(more, *args, **options)
                outputs = jax.tree.map(lambda a: a.reshape(size, -1, *a.shape[1:]), outputs)
                return outputs, jax.tree.map(lambda _: True, outputs)

            return call(*args)

        return folded

    return Execution(fold(execution.forward), fold(execution.backward))


def _more_groups(
    problem: Problem, size: int, batched: Any, args: Any
) -> tuple[Problem, tuple[Leaves, ...]]:
    """The problem and arguments of ``size * G`` groups, from some with a leading axis of ``size``.

    A constant without that axis keeps its Gc, which divides G; one that has it becomes per group.
    """
    (consts, *rest), (consts_batched, *rest_batched) = args, batched

    def constant(const, is_batched, sharers):
        if not is_batched:
            return const
        return jnp.tile(const, (1, problem.groups // sharers, 1, 1)).reshape(-1, *const.shape[2:])

    def leaf(a, is_batched):
        a = a if is_batched else jnp.broadcast_to(a, (size, *a.shape))
        return a.reshape(-1, *a.shape[2:])

    groups = size * problem.groups
    sharers = tuple(
        groups if is_batched else sharers
        for is_batched, sharers in zip(consts_batched, problem.sharers, strict=True)
    )
    consts = tuple(map(constant, consts, consts_batched, problem.sharers))
    rest = jax.tree.map(leaf, rest, rest_batched)
    return dataclasses.replace(problem, groups=groups, sharers=sharers), (consts, *rest)
