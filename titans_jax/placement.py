"""What is compiled for which platform, and how kernels are shared out over a mesh.

A compiler cannot partition a kernel. Under a mesh (``jax.set_mesh``) whatever runs one does so in
``jax.shard_map``: the batch over the axes "data" and "fsdp", the heads over "tensor", as far as they
divide, and everything else in every device's copy.
"""

import math
from typing import Any, NamedTuple

import jax
from jax.sharding import AxisType

#: Mesh axes over which sequences and heads are shared out.
BATCH_AXES, HEAD_AXES = ("data", "fsdp"), ("tensor",)


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
    mesh = jax.sharding.get_abstract_mesh()
    kinds = zip(mesh.axis_names, mesh.axis_types, strict=True)
    free = [name for name, kind in kinds if kind != AxisType.Manual]
    if math.prod(mesh.shape[name] for name in free) == 1:
        return None

    def dividing(names: tuple[str, ...], size: int) -> tuple[str, ...] | None:
        present = tuple(name for name in names if name in free)
        whole = size % math.prod(mesh.shape[name] for name in present) == 0
        return present if present and whole else None

    return Shares(set(free), dividing(BATCH_AXES, sequences), dividing(HEAD_AXES, heads))
