"""What is compiled for which platform, and how kernels are shared out over a mesh.

A compiler cannot partition a kernel. Under a mesh (``jax.set_mesh``) whatever runs one does so in
``jax.shard_map``: the batch over the axes "data" and "fsdp", the heads over "tensor", as far as they
divide, and everything else in every device's copy.
"""

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import AxisType, PartitionSpec

from titans_jax.typing import Array

#: Mesh axes over which sequences, their tokens, and heads are shared out.
BATCH_AXES, SEQUENCE_AXIS, HEAD_AXES = ("data", "fsdp"), "sequence", ("tensor",)


def target_platform() -> str:
    """The platform that is compiled for: that of the mesh in context, else the default device's.

    It is known while tracing, unlike the platform of ``jax.lax.platform_dependent``, whose differentiation
    keeps the residuals of every platform's branch: on a CPU that would change what is compiled. To compile for
    a TPU that is absent, lower under ``jax.set_mesh`` with its devices; to compute elsewhere than on the
    default platform, under ``jax.default_device``.
    """
    device = jax.sharding.get_abstract_mesh().abstract_device
    if device is not None:
        return device.platform
    config: Any = jax.config
    default = config.jax_default_device
    if default is None:
        return jax.default_backend()
    return default if isinstance(default, str) else default.platform


class Shares(NamedTuple):
    """How a kernel is shared out.

    Attributes:
        axes: all axes of the mesh that no enclosing ``jax.shard_map`` holds.
        batch: those over which the sequences go, or None.
        heads: those over which the heads go, or None.
    """

    axes: set[str]
    batch: tuple[str, ...] | None
    heads: tuple[str, ...] | None


def kernel_shares(sequences: int, heads: int) -> Shares | None:
    """How the mesh in context shares out a kernel; None where one device runs it as it is.

    Args:
        sequences: of the whole batch.
        heads: of all devices together.
    """
    free = free_axes()
    if math.prod(free.values()) == 1:
        return None
    return Shares(
        set(free), _dividing(free, BATCH_AXES, sequences), _dividing(free, HEAD_AXES, heads)
    )


def free_axes() -> dict[str, int]:
    """Sizes of the axes of the mesh in context that no enclosing ``jax.shard_map`` holds."""
    mesh = jax.sharding.get_abstract_mesh()
    kinds = zip(mesh.axis_names, mesh.axis_types, strict=True)
    return {name: mesh.shape[name] for name, kind in kinds if kind != AxisType.Manual}


def by_sequences(x: Array) -> Array:
    """Tells the compiler that ``[B, ...]`` is shared out by sequences and whole otherwise.

    It then gathers parameters where they are used instead of exchanging activations. Nothing is said without a
    mesh, or where its axes do not divide B.
    """
    free = free_axes()
    axes = _dividing(free, BATCH_AXES, x.shape[0])
    if axes is None or math.prod(free.values()) == 1:
        return x
    return jax.lax.with_sharding_constraint(x, PartitionSpec(axes))


def by_heads(x: Array, axis: int) -> Array:
    """`by_sequences` for ``[B, ...]`` with heads along an axis, which are shared out too.

    Args:
        x: array.
        axis: of the heads.
    """
    free = free_axes()
    if math.prod(free.values()) == 1:
        return x
    spec: list[tuple[str, ...] | None] = [None] * (axis + 1)
    spec[0] = _dividing(free, BATCH_AXES, x.shape[0])
    spec[axis] = _dividing(free, HEAD_AXES, x.shape[axis])
    return jax.lax.with_sharding_constraint(x, PartitionSpec(*spec))


def heads_only(x: Array) -> Array:
    """Tells the compiler that a parameter ``[H, ...]`` is shared out by heads and whole otherwise where it is used.

    Without it, of parameters stacked by layers that are cut over "fsdp", every layer gathers the whole stack.
    """
    free = free_axes()
    if math.prod(free.values()) == 1:
        return x
    heads = _dividing(free, HEAD_AXES, x.shape[0])
    return jax.lax.with_sharding_constraint(x, PartitionSpec(heads))


def gathered(table: Array, dtype: jnp.dtype) -> Array:
    """Tells the compiler that a table ``[V, D]`` has whole rows where it is used, its rows over the heads' axis.

    A lookup in rows that are cut would make it exchange what was looked up, and its gradient, instead. Under a mesh
    the table is cast before it is gathered, so that fewer bytes travel; elsewhere a cast would copy it for every token.
    """
    return _over_heads(table, dtype, axis=0)


def gathered_for_lookup(table: Array, dtype: jnp.dtype) -> Array:
    """`gathered` for a lookup of rows; inside a ``jax.shard_map`` that holds some axes, columns are shared out instead.

    There the partitioner of XLA in jax 0.12 aborts on a lookup in a table whose rows are shared out.
    """
    held = AxisType.Manual in jax.sharding.get_abstract_mesh().axis_types
    return _over_heads(table, dtype, axis=int(held))


def _over_heads(table: Array, dtype: jnp.dtype, axis: int) -> Array:
    free = free_axes()
    if math.prod(free.values()) == 1:
        return table
    shares = _dividing(free, HEAD_AXES, table.shape[axis])
    return jax.lax.with_sharding_constraint(
        table.astype(dtype), PartitionSpec(*[None] * axis, shares)
    )


def _dividing(free: dict[str, int], names: tuple[str, ...], size: int) -> tuple[str, ...] | None:
    present = tuple(name for name in names if name in free)
    whole = size % math.prod(free[name] for name in present) == 0
    return present if present and whole else None
