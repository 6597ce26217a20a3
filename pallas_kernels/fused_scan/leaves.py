"""Tuples of 2-D leaves inside a kernel's body, and a kernel's outputs: what TPU and GPU share."""

from typing import Any

import jax

from pallas_kernels.fused_scan.vjp import Leaves, Shapes

#: A kernel's references to blocks or scratch, one for each leaf.
Refs = tuple[Any, ...]


def outputs(shapes: Shapes, lead: tuple[int, ...], like: Leaves) -> Shapes:
    """Outputs with leading axes ``lead``, varying over the mesh axes over which ``like`` does."""
    mesh_axes = jax.typeof(like[0]).manual_axis_type
    return tuple(
        jax.ShapeDtypeStruct((*lead, *s.shape), s.dtype, manual_axis_type=mesh_axes) for s in shapes
    )


def load(refs: Refs, index: Any) -> Leaves:
    """Every leaf at an index of its leading axes."""
    return tuple(ref[index] for ref in refs)


def store(refs: Refs, index: Any, values: Leaves) -> None:
    """Writes every leaf there."""
    for ref, value in zip(refs, values, strict=True):
        ref[index] = value
