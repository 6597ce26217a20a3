"""`fused_scan`: checks and flattens its pytrees, and has the problem run (dispatch.py)."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental.pallas import tpu as pltpu

from pallas_kernels.fused_scan.blocking import check_groups_per_step
from pallas_kernels.fused_scan.dispatch import Implementation, plan
from pallas_kernels.fused_scan.vjp import (
    FlatStep,
    FlatStepVJP,
    Leaves,
    Problem,
    Shapes,
    derived_step_vjp,
    differentiable,
)

PyTree = Any
#: ``(consts, carry, x) -> (carry, y)``, pure, on one group's 2-D arrays at one chunk.
Step = Callable[[PyTree, PyTree, PyTree], tuple[PyTree, PyTree]]
#: ``(consts, carry, x, d_carry, d_y) -> (d_consts, d_carry, d_x)``, pure, on the same.
StepVJP = Callable[[PyTree, PyTree, PyTree, PyTree, PyTree], tuple[PyTree, PyTree, PyTree]]
#: Structures of consts, carry and x.
Trees = tuple[Any, Any, Any]


def fused_scan(
    step: Step,
    consts: PyTree,
    carry: PyTree,
    xs: PyTree,
    *,
    implementation: Implementation | None = None,
    checkpoint_every: int | None = None,
    saved_dtype: jax.typing.DTypeLike | None = None,
    groups_per_step: int | None = None,
    step_vjp: StepVJP | None = None,
    interpret: bool | pltpu.InterpretParams = False,
) -> tuple[PyTree, PyTree]:
    """``jax.vmap`` over groups of ``jax.lax.scan`` over chunks, with the carry kept on the chip.

    Differentiable in reverse mode in consts, carry and xs. Every leaf is a floating-point array;
    ``None`` and empty containers are absent leaves.

    Args:
        step: ``(consts, carry, x) -> (carry, y)``, pure, on 2-D arrays without the axes G and N, in
            operations that the target lowers. It closes over no arrays: what it needs comes
            through consts. Carry keeps its shapes and dtypes.
        consts: leaves ``[Gc, rows, cols]``, Gc a divisor of G; group g sees ``const[g % Gc]``.
        carry: leaves ``[G, rows, cols]``.
        xs: leaves ``[G, N, rows, cols]``, at least one.
        implementation: what runs: "xla" (``lax.scan``), "mosaic_tpu" or "triton". None:
            the kernel where the computation is lowered for a TPU and it fits, else XLA.
        checkpoint_every: chunks between two carries that are saved for backward, which recomputes
            those in between. None: the fastest under a budget of saved bytes (blocking.py).
        saved_dtype: dtype of the saved carries, one that every leaf's own contains, such as bfloat16
            for float32: less HBM traffic, for a backward pass that starts every segment from a
            rounded carry. The carry from chunk to chunk keeps its dtype. None: the carry's own,
            which rounds nothing.
        groups_per_step: groups that one grid step of the TPU's kernel computes side by side; a
            divisor of G, and for every constant a divisor or multiple of Gc. None: blocking.py.
        step_vjp: the VJP of step, ``(consts, carry, x, d_carry, d_y) -> (d_consts, d_carry, d_x)``,
            where one written by hand beats ``jax.vjp``.
        interpret: run the kernel's body on any platform, for tests. True on "mosaic_tpu" means
            memory full of NaN and detection of races.

    Returns:
        The final carry ``[G, rows, cols]`` and the stacked outputs ``[G, N, rows, cols]``.

    Raises:
        ValueError: a shape, dtype or option is unusable, or a kernel named by ``implementation``
            cannot run these shapes on this chip. Names the leaf or option and what would do.
    """
    if implementation not in (None, "xla", "mosaic_tpu", "triton"):
        raise ValueError(
            f"implementation must be None, 'xla', 'mosaic_tpu' or 'triton', got {implementation!r}"
        )
    if interpret and implementation not in ("mosaic_tpu", "triton"):
        raise ValueError(
            f"interpret runs a kernel's body: implementation must be 'mosaic_tpu' or 'triton', got {implementation!r}"
        )
    groups, chunks = _check_leaves(consts, carry, xs)
    _check_positive("checkpoint_every", checkpoint_every)
    _check_positive("groups_per_step", groups_per_step)
    saved = _check_saved_dtype(saved_dtype, carry)
    flat_consts, consts_tree = jax.tree.flatten(consts)
    flat_carry, carry_tree = jax.tree.flatten(carry)
    flat_xs, xs_tree = jax.tree.flatten(xs)
    trees: Trees = (consts_tree, carry_tree, xs_tree)
    shapes = (_shapes(flat_consts, 1), _shapes(flat_carry, 1), _shapes(flat_xs, 2))
    y, y_tree = _check_step(step, trees, shapes)
    flat_step = _flat_step(step, trees)
    problem = Problem(
        step=flat_step,
        step_vjp=(
            derived_step_vjp(flat_step)
            if step_vjp is None
            else _flat_step_vjp(step_vjp, trees, y_tree)
        ),
        groups=groups,
        chunks=chunks,
        checkpoint_every=1,
        consts=shapes[0],
        carry=shapes[1],
        x=shapes[2],
        y=y,
        sharers=tuple(c.shape[0] for c in flat_consts),
        saved_dtype=saved,
    )
    if groups_per_step is not None:
        check_groups_per_step(problem, groups_per_step)
    problem, execution = plan(implementation, problem, checkpoint_every, groups_per_step, interpret)
    leaves = _vary_alike((tuple(flat_consts), tuple(flat_carry), tuple(flat_xs)))
    end, ys = differentiable(problem, execution)(*leaves)
    return jax.tree.unflatten(trees[1], end), jax.tree.unflatten(y_tree, ys)


def _flat_step(step: Step, trees: Trees) -> FlatStep:
    def flat_step(consts, carry, x):
        args = (
            tree.unflatten(leaves) for tree, leaves in zip(trees, (consts, carry, x), strict=True)
        )
        carry, y = step(*args)
        return tuple(jax.tree.leaves(carry)), tuple(jax.tree.leaves(y))

    return flat_step


def _flat_step_vjp(step_vjp: StepVJP, trees: Trees, y_tree: Any) -> FlatStepVJP:
    """The user's VJP on flat leaves, checked against the primals and cast to their dtypes."""

    def flat_step_vjp(consts, carry, x, d_carry, d_y):
        primals = (consts, carry, x)
        a, b, c = (tree.unflatten(leaves) for tree, leaves in zip(trees, primals, strict=True))
        cotangents = step_vjp(a, b, c, trees[1].unflatten(d_carry), y_tree.unflatten(d_y))
        flat = []
        for name, tree, primal, given in zip(
            ("d_consts", "d_carry", "d_x"), trees, primals, cotangents, strict=True
        ):
            leaves, structure = jax.tree.flatten(given)
            got = (structure, [leaf.shape for leaf in leaves])
            want = (tree, [leaf.shape for leaf in primal])
            if got != want:
                raise ValueError(
                    f"step_vjp: {name} must have the structure and shapes {want}, got {got}"
                )
            flat.append(tuple(d.astype(p.dtype) for d, p in zip(leaves, primal, strict=True)))
        return tuple(flat)

    return flat_step_vjp


def _shapes(leaves: list[jax.Array], lead: int) -> Shapes:
    """Shapes and dtypes of leaves without their first ``lead`` axes."""
    return tuple(jax.ShapeDtypeStruct(a.shape[lead:], a.dtype) for a in leaves)


def _check_positive(name: str, value: int | None) -> None:
    if value is not None and (not isinstance(value, int) or value < 1):
        raise ValueError(f"{name} must be a positive integer or None, got {value!r}")


def _check_saved_dtype(saved_dtype: Any, carry: PyTree) -> Any:
    """The dtype, which must hold no number that a leaf of the carry cannot."""
    if saved_dtype is None:
        return None
    dtype = jnp.dtype(saved_dtype)
    if not jnp.issubdtype(dtype, jnp.floating):
        raise ValueError(
            f"saved_dtype must be None or a floating-point dtype such as bfloat16, got {dtype}"
        )
    saved = jnp.finfo(dtype)
    for name, leaf in _named_leaves("carry", carry):
        own = jnp.finfo(leaf.dtype)
        if saved.nmant > own.nmant or saved.maxexp > own.maxexp:
            raise ValueError(
                f"saved_dtype must be None or a dtype that {leaf.dtype}, the dtype of {name}, contains: "
                f"{leaf.dtype} itself or a narrower one; got {dtype}"
            )
    return dtype


def _named_leaves(name: str, tree: PyTree) -> list[tuple[str, Any]]:
    leaves, _ = jax.tree_util.tree_flatten_with_path(tree)
    return [(name + jax.tree_util.keystr(path), leaf) for path, leaf in leaves]


def _check_leaves(consts: PyTree, carry: PyTree, xs: PyTree) -> tuple[int, int]:
    """G and N, from arguments whose leaves agree on them."""
    named_xs = _named_leaves("xs", xs)
    if not named_xs:
        raise ValueError(
            "xs must have at least one leaf: it says how many groups and chunks there are"
        )
    named_carry, named_consts = _named_leaves("carry", carry), _named_leaves("consts", consts)
    for axes, leaves in (
        ("[G, N, rows, cols]", named_xs),
        ("[G, rows, cols]", named_carry),
        ("[Gc, rows, cols]", named_consts),
    ):
        for name, leaf in leaves:
            if len(leaf.shape) != axes.count(",") + 1 or 0 in leaf.shape:
                raise ValueError(
                    f"{name} must have axes {axes}, none empty; got shape {leaf.shape}"
                )
            if not jnp.issubdtype(leaf.dtype, jnp.floating):
                raise ValueError(
                    f"{name} must be floating-point (flags as 0.0 and 1.0), got {leaf.dtype}"
                )
    groups, chunks = named_xs[0][1].shape[:2]
    for name, leaf in named_xs:
        if leaf.shape[:2] != (groups, chunks):
            raise ValueError(
                f"{name} must begin with G = {groups} and N = {chunks}, as {named_xs[0][0]} does; "
                f"got shape {leaf.shape}"
            )
    for name, leaf in named_carry:
        if leaf.shape[0] != groups:
            raise ValueError(
                f"{name} must begin with G = {groups}, as xs does; got shape {leaf.shape}"
            )
    for name, leaf in named_consts:
        if groups % leaf.shape[0]:
            raise ValueError(
                f"{name} must begin with a divisor of G = {groups} (1: shared by all groups), got shape {leaf.shape}"
            )
    return groups, chunks


def _check_step(
    step: Step, trees: Trees, shapes: tuple[Shapes, Shapes, Shapes]
) -> tuple[Shapes, Any]:
    """Shapes and structure of y, from a step that keeps its carry's shapes."""
    args: list[Any] = [tree.unflatten(leaves) for tree, leaves in zip(trees, shapes, strict=True)]
    new_carry, y = jax.eval_shape(step, *args)
    old, new = _named_leaves("carry", args[1]), _named_leaves("carry", new_carry)
    if jax.tree.structure(new_carry) != trees[1]:
        raise ValueError(
            f"step must return a carry of the structure {trees[1]}, got {jax.tree.structure(new_carry)}"
        )
    for (name, before), (_, after) in zip(old, new, strict=True):
        if (before.shape, before.dtype) != (after.shape, after.dtype):
            raise ValueError(
                f"step must keep {name} of shape {before.shape} and dtype {before.dtype}, "
                f"but returns {after.shape} and {after.dtype}"
            )
    for name, leaf in _named_leaves("y", y):
        if len(leaf.shape) != 2 or not jnp.issubdtype(leaf.dtype, jnp.floating):
            raise ValueError(
                f"step must return 2-D floating-point arrays, but {name} has shape {leaf.shape} and dtype {leaf.dtype}"
            )
    leaves, y_tree = jax.tree.flatten(y)
    return _shapes(leaves, 0), y_tree


def _vary_alike(leaves: tuple[Leaves, ...]) -> tuple[Leaves, ...]:
    """Leaves that all vary over the mesh axes over which any does (inside ``jax.shard_map``).

    The cotangent of a replicated leaf is then summed over those axes by JAX.
    """
    mesh_axes = frozenset().union(
        *(jax.typeof(leaf).manual_axis_type.varying for leaf in jax.tree.leaves(leaves))
    )

    def vary(leaf):
        missing = tuple(mesh_axes - jax.typeof(leaf).manual_axis_type.varying)
        return jax.lax.pcast(leaf, missing, to="varying") if missing else leaf

    return jax.tree.map(vary, leaves)
