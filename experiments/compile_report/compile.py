"""Compiles the training step of a config for TPUs that are absent, and takes down what the compiler says."""

import os
import re
import time
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.experimental import topologies

from experiments.compile_report.collectives import Collective, collectives
from experiments.compile_report.traffic import hbm_bytes
from experiments.training.carry import carried_rows, start
from experiments.training.config import TrainConfig
from experiments.training.guard import guarded
from experiments.training.mesh import AXES, Layout, check_layout, make_layout
from experiments.training.optimizer import make_optimizer
from experiments.training.sharding import bytes_per_device
from experiments.training.step import make_train_step, place, split_model
from experiments.training.utilisation import flops_per_token

_REFUSED = re.compile(
    r"(?:Used |temporaries \()([\d.]+)([KMGT])\)? (?:of|exceeds available HBM \()\s?([\d.]+)([KMGT])"
)
_UNITS = {"K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}


#: libtpu must neither ask this machine for its TPU nor complain that there is none. Read when it is loaded.
_ENVIRONMENT = {
    "TPU_SKIP_MDS_QUERY": "1",
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "TPU_ACCELERATOR_TYPE": "v5litepod-4",
    "TF_CPP_MIN_LOG_LEVEL": "3",
}


class Step(NamedTuple):
    """A compiled training step; bytes are those of one device.

    Attributes:
        fits: whether the compiler accepted it.
        parameters: bytes of the parameters.
        optimizer: bytes of the optimizer's state.
        total: bytes that the step needs at most at a time, those two included.
        limit: bytes that the compiler allows; None where it did not say.
        accessed: bytes moved through HBM in a step (traffic.py).
        collectives: what the devices exchange.
        flops: multiplications and additions that the step needs (utilisation.py), over all devices.
        devices: their number.
        seconds: that compiling took.
    """

    fits: bool
    parameters: int
    optimizer: int
    total: int
    limit: int | None
    accessed: int
    collectives: tuple[Collective, ...]
    flops: float
    devices: int
    seconds: float


def use_compiler_only() -> None:
    """Tells JAX that nothing will run here: libtpu is only the compiler. Before anything is computed."""
    for name, value in _ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    jax.config.update("jax_platforms", "cpu")


def topology_devices(topology: str, num_slices: int = 1) -> list[Any]:
    """The devices of an absent topology, e.g. "v5e:8x8".

    Raises:
        ValueError: there is no such topology, or no libtpu to ask.
    """
    options: dict[str, Any] = {"num_slices": num_slices} if num_slices > 1 else {}
    if topology.startswith("v4:"):
        options["chip_config_name"] = "megacore"  # one device for both cores of a chip, as on a pod
    try:
        return topologies.get_topology_desc(
            topology_name=topology, platform="tpu", **options
        ).devices
    except Exception as error:  # whatever libtpu raises
        raise ValueError(
            f"--topology={topology}, --num_slices={num_slices}: {str(error).splitlines()[0]} (it needs the package "
            "libtpu, and a name such as v5e:8x8, v5p:8x8x8 or v4:4x4x4)"
        ) from error


def devices_per_chip(devices: Sequence[Any]) -> int:
    """Devices that share a chip's memory and links: two where each core is one."""
    chips = {(getattr(device, "slice_index", 0), tuple(device.coords)) for device in devices}
    return len(devices) // len(chips)


def compile_step(config: TrainConfig, devices: Sequence[Any]) -> tuple[Step, Any]:
    """Compiles the step that `experiments.train` runs on these devices.

    Args:
        config: of the run; its mesh is laid over the devices.
        devices: of `topology_devices`, or the run's own.

    Returns:
        What the compiler says, and the compiled step, None where it does not fit.

    Raises:
        ValueError: config and mesh do not fit each other.
    """
    layout = make_layout(config.mesh, devices)
    check_layout(config, layout.mesh)
    graphdef, shapes = split_model(config.model)
    optimizer = guarded(make_optimizer(config.optimizer, config.steps), config.spike_factor)
    started = start(graphdef, optimizer, carried_rows(config))
    placed = place(layout.mesh, shapes, started)
    opt_shapes = jax.eval_shape(started, shapes)
    arguments = (
        _at(shapes, placed.params),
        _at(opt_shapes, placed.opt_state),
        _batch(config, layout),
    )
    step = make_train_step(graphdef, optimizer, config.accumulation, placed)
    batch, length = config.batch_size, config.data.sequence_length
    packed = config.data.packing == "documents"
    flops = flops_per_token(graphdef, shapes, batch, length, packed) * batch * length
    static = Step(
        fits=True,
        parameters=bytes_per_device(shapes, placed.params),
        optimizer=bytes_per_device(opt_shapes, placed.opt_state),
        total=0,
        limit=None,
        accessed=0,
        collectives=(),
        flops=flops,
        devices=len(devices),
        seconds=0.0,
    )
    began = time.perf_counter()
    # Splash attention does not compile in 64-bit mode.
    with jax.set_mesh(layout.mesh), jax.enable_x64(False):
        lowered = step.lower(*arguments)
        try:
            compiled = lowered.compile()
        except jax.errors.JaxRuntimeError as error:
            needed = refused_bytes(str(error))
            if needed is None:
                raise
            total, limit = needed
            seconds = time.perf_counter() - began
            return static._replace(fits=False, total=total, limit=limit, seconds=seconds), None
    hlo, memory = compiled.as_text(), compiled.memory_analysis()
    step_found = static._replace(
        total=memory.peak_memory_in_bytes,
        accessed=hbm_bytes(hlo),
        collectives=tuple(collectives(hlo, AXES, tuple(layout.mesh.shape[axis] for axis in AXES))),
        seconds=time.perf_counter() - began,
    )
    return step_found, compiled


def refused_bytes(message: str) -> tuple[int, int] | None:
    """HBM that a program needs and that there is, from the compiler's refusal; None for any other message."""
    refused = _REFUSED.search(message)
    if refused is None:
        return None
    needed, there = (int(float(refused[i]) * _UNITS[refused[i + 1]]) for i in (1, 3))
    return needed, there


def _at(shapes: Any, placed: Any) -> Any:
    return jax.tree.map(
        lambda x, sharding: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding),
        shapes,
        placed,
    )


def _batch(config: TrainConfig, layout: Layout) -> dict[str, jax.ShapeDtypeStruct]:
    shape = (config.batch_size, config.data.sequence_length)
    kinds = {"inputs": jnp.int32, "targets": jnp.int32, "loss_mask": jnp.bool_}
    if config.data.packing == "documents" or config.data.carry:
        kinds["reset"] = jnp.bool_
    return {
        name: jax.ShapeDtypeStruct(shape, kind, sharding=layout.batch)
        for name, kind in kinds.items()
    }
