"""The mesh of a run: axes "data", "fsdp", "sequence" and "tensor", over the devices of all processes.

Sequences are shared out over "data" x "fsdp", their tokens over "sequence", heads over "tensor" (sharding.py says where
parameters lie). Across slices of TPUs, whose network is slow, only "data" runs; everything else stays in a slice.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, ParamSpec, TypeVar

import jax
import numpy as np
from jax.experimental import mesh_utils
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec
from jaxtyping import PyTree

from experiments.training.config import MeshConfig, TrainConfig
from experiments.training.text import Share
from titans_jax.placement import BATCH_AXES, SEQUENCE_AXIS

P = ParamSpec("P")
R = TypeVar("R")

#: Neighbours exchange most over the last axes, so these are laid on the closest devices.
AXES = ("data", "fsdp", "sequence", "tensor")


class Layout(NamedTuple):
    """Where the arrays of a training run live."""

    mesh: Mesh
    replicated: NamedSharding
    batch: NamedSharding  # of [B, T]

    def reads(self) -> Share:
        """This process' share of the sequences.

        Raises:
          ValueError: processes hold parts of the batch that overlap without being equal.
        """
        processes = {device.process_index for device in self.mesh.devices.flat}
        shares = sorted({self._held(process) for process in processes})
        parts = self.mesh.shape["data"] * self.mesh.shape["fsdp"]
        if sum(map(len, shares)) != parts or len(set(map(len, shares))) > 1:
            raise ValueError(
                "config.mesh: every process must hold its own part of the batch, or the same as another; "
                "choose fsdp * sequence * tensor a multiple or a divisor of a process' devices"
            )
        return Share(shares.index(self._held(jax.process_index())), len(shares))

    def share(self, batch: dict[str, np.ndarray]) -> dict[str, Any]:
        """The batch on the devices.

        Args:
          batch: this process' sequences (`reads`), [B, ...].
        """
        count, held = self.reads().count, self._held(jax.process_index())

        def globally(x: np.ndarray) -> jax.Array:
            size = x.shape[0] // len(held)

            def part(index: Any) -> np.ndarray:
                start = size * held.index((index[0].start or 0) // size)
                return x[(slice(start, start + size), *index[1:])]

            spec = PartitionSpec(*self.batch.spec[: x.ndim])
            shape = (x.shape[0] * count, *x.shape[1:])
            return jax.make_array_from_callback(shape, NamedSharding(self.mesh, spec), part)

        return {name: globally(x) for name, x in batch.items()}

    def _held(self, process: int) -> tuple[int, ...]:
        """Which of the equal parts of a batch lie on a process' devices."""
        places = np.argwhere([[d.process_index == process for d in self.mesh.devices.flat]])[:, 1]
        data, fsdp, *_ = np.unravel_index(places, self.mesh.devices.shape)
        return tuple(np.unique(data * self.mesh.shape["fsdp"] + fsdp).tolist())

    def replicate(self, tree: PyTree) -> PyTree:
        """The tree on every device."""
        return jax.device_put(tree, self.replicated)

    def gather(self, tree: PyTree) -> PyTree:
        """The whole tree on this process' first device. All processes call it together."""
        whole = jax.jit(lambda x: x, out_shardings=self.replicated)(tree)
        here = jax.local_devices()[0]
        return jax.tree.map(lambda x: jax.device_put(x.addressable_data(0), here), whole)

    def in_turn(self, function: Callable[P, R]) -> Callable[P, R]:
        """The jitted `function`, waited for on several CPU devices, unchanged elsewhere.

        XLA runs all CPU devices in one pool of threads: executions queued behind one another can fill it with one
        device's share, each waiting for a sum whose other half never starts, and the process is aborted.
        """
        if self.mesh.size == 1 or self.mesh.devices.flat[0].platform != "cpu":
            return function

        def waiting(*args: P.args, **kwargs: P.kwargs) -> R:
            return jax.block_until_ready(function(*args, **kwargs))

        return waiting


def make_layout(config: MeshConfig, devices: Sequence[jax.Device] | None = None) -> Layout:
    """The mesh over all devices, and where batches lie.

    Args:
      config: sizes of the axes.
      devices: None for all that JAX has; those of an absent topology for a dry run.

    Raises:
      ValueError: the sizes do not fit the number of devices or slices; it names the field.
    """
    devices = jax.devices() if devices is None else devices
    slices = len({getattr(device, "slice_index", 0) for device in devices})
    shape = mesh_shape(config, len(devices), slices)
    kinds = (AxisType.Auto,) * len(AXES)
    if devices[0].platform != "tpu":
        grid = np.asarray(devices).reshape(shape)
    elif slices == 1:
        grid = mesh_utils.create_device_mesh(shape, devices, allow_split_physical_axes=True)
    else:
        inside = (shape[0] // slices, *shape[1:])
        across = (slices, 1, 1, 1)
        grid = mesh_utils.create_hybrid_device_mesh(
            inside, across, devices, allow_split_physical_axes=True
        )
    mesh = Mesh(grid, AXES, axis_types=kinds)
    return Layout(
        mesh,
        NamedSharding(mesh, PartitionSpec()),
        NamedSharding(mesh, PartitionSpec(BATCH_AXES, SEQUENCE_AXIS)),
    )


def mesh_shape(config: MeshConfig, devices: int, slices: int = 1) -> tuple[int, ...]:
    """Sizes of `AXES`, with the one that is 0, if any, replaced by what the others leave.

    Raises:
      ValueError: naming the fields that do not fit.
    """
    sizes = {axis: getattr(config, axis) for axis in AXES}
    given = math.prod(size for size in sizes.values() if size)
    what = f"config.mesh: {' * '.join(AXES)} = {' * '.join(map(str, sizes.values()))}"
    hint = "on a CPU the number of devices is config.cpu_devices"
    left = [axis for axis, size in sizes.items() if not size]
    if left:
        if devices % given:
            raise ValueError(f"{what} does not divide {devices} devices; {hint}")
        sizes[left[0]] = devices // given
    elif given != devices:
        raise ValueError(
            f"{what} must multiply to the number of devices, {devices}; data or fsdp may be 0: what is left; {hint}"
        )
    if sizes["data"] % slices:
        raise ValueError(
            f"config.mesh.data={sizes['data']}: must be a multiple of the {slices} slices, between which only data "
            "parallelism runs"
        )
    return tuple(sizes.values())


def check_layout(config: TrainConfig, mesh: Mesh) -> None:
    """Refuses, before anything is compiled, a model or batch that the mesh cannot share out.

    Raises:
      ValueError: naming the field, its value and what would be right.
    """
    model, sizes = config.model, mesh.shape
    tensor, sequence = sizes["tensor"], sizes[SEQUENCE_AXIS]
    for name, heads, present in (
        ("model.memory.num_heads", model.memory.num_heads, model.has_memory),
        ("model.num_heads", model.num_heads, model.has_attention),
        ("model.recurrence.num_heads", model.recurrence.num_heads, bool(model.recurrences)),
    ):
        if present and heads % tensor:
            raise ValueError(
                f"config.{name}={heads}: must be a multiple of config.mesh.tensor={tensor}, over which heads are "
                "shared out"
            )
    together = config.batch_size // config.accumulation
    shares = math.prod(sizes[axis] for axis in BATCH_AXES)
    if together % shares:
        raise ValueError(
            f"config.batch_size / config.accumulation = {together}: must be a multiple of data * fsdp = {shares} "
            "of config.mesh (on a CPU, of config.cpu_devices)"
        )
    if sequence == 1:
        return
    if model.variant == "transformer" and model.window is None:
        raise ValueError(
            f"config.mesh.sequence={sequence}: full attention (config.model.window=0) cannot be shared out by tokens; "
            "give it a window, or use mesh.fsdp and mesh.tensor"
        )
    unit, length = sequence * model.alignment, config.data.sequence_length
    if length % unit:
        raise ValueError(
            f"config.data.sequence_length={length}: must be a multiple of {unit}, whole chunks (MAC: segments) for "
            f"each of config.mesh.sequence={sequence} parts"
        )
