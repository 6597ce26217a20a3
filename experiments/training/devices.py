"""Data parallelism over the local devices: the batch is shared out, parameters are on every device.

XLA runs the memory's many small matmuls on one core of a CPU, so a CPU is made to look like several devices, one
per core, before JAX starts. A real accelerator is left as it is.

XLA's CPU backend also hands reductions to YNNPACK, which is slow at the memory's short ones: `compiler_options` leaves
it the matmuls alone.
"""

from collections.abc import Callable
from typing import Any, NamedTuple, ParamSpec, TypeVar

import jax
import numpy as np
from jax.sharding import AxisType, NamedSharding, PartitionSpec
from jaxtyping import PyTree

P = ParamSpec("P")
R = TypeVar("R")


def split_cpu(devices: int) -> None:
    """Makes the CPU look like `devices` devices; has no effect on other platforms.

    Raises:
      ValueError: JAX runs already, with another number of CPU devices.
    """
    try:
        jax.config.update("jax_num_cpu_devices", devices)
    except RuntimeError as error:
        if jax.local_device_count("cpu") != devices:
            raise ValueError(
                f"config.cpu_devices={devices}: JAX runs already with "
                f"{jax.local_device_count('cpu')} CPU devices; set it before anything is computed"
            ) from error


def compiler_options() -> dict[str, str]:
    """What to tell XLA, by `jax.jit(..., compiler_options=...)`, when it compiles a step for this platform."""
    if jax.default_backend() != "cpu":
        return {}
    return {"xla_cpu_experimental_ynn_fusion_type": "LIBRARY_FUSION_TYPE_DOT"}


class DataParallel(NamedTuple):
    """Where the arrays of a training run live."""

    mesh: jax.sharding.Mesh
    replicated: NamedSharding
    batch: NamedSharding

    def share(self, batch: dict[str, np.ndarray]) -> dict[str, Any]:
        """The batch on the devices, its sequences shared out."""
        return jax.device_put(batch, self.batch)

    def replicate(self, tree: PyTree) -> PyTree:
        """The tree on every device."""
        return jax.device_put(tree, self.replicated)

    def in_turn(self, function: Callable[P, R]) -> Callable[P, R]:
        """The jitted `function`, waited for on several CPU devices, unchanged elsewhere.

        XLA runs all CPU devices in one pool of threads: executions queued behind one another can fill it with one
        device's share, each waiting for a sum whose other half never starts, and the process is aborted.
        """
        if len(self.batch.device_set) == 1 or jax.default_backend() != "cpu":
            return function

        def waiting(*args: P.args, **kwargs: P.kwargs) -> R:
            return jax.block_until_ready(function(*args, **kwargs))

        return waiting


def data_parallel(sequences: int) -> DataParallel:
    """A mesh of all local devices with the one axis "data".

    Args:
      sequences: that go through the model together; a multiple of the number of devices.

    Raises:
      ValueError: if they cannot be shared out equally.
    """
    count = jax.local_device_count()
    if sequences % count:
        raise ValueError(
            f"config.batch_size / config.accumulation = {sequences}: must be a multiple of the "
            f"{count} devices (config.cpu_devices on a CPU)"
        )
    mesh = jax.make_mesh((count,), ("data",), axis_types=(AxisType.Auto,))
    return DataParallel(
        mesh, NamedSharding(mesh, PartitionSpec()), NamedSharding(mesh, PartitionSpec("data"))
    )
