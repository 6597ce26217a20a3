"""Compiles the training step of a config for TPUs that are absent, and takes down what the compiler says."""

import contextlib
import os
import re
import time
from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.experimental import topologies

from experiments.compile_report.collectives import Collective, collectives
from experiments.kernel_report.matmuls import matmuls
from experiments.training.config import TrainConfig
from experiments.training.mesh import AXES, Layout, check_layout, make_layout
from experiments.training.optimizer import make_optimizer
from experiments.training.sharding import bytes_per_device
from experiments.training.step import make_eval_step, make_train_step, place, split_model

#: libtpu asks the machine for its TPU unless it is told not to.
os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")
os.environ.setdefault("ALLOW_MULTIPLE_LIBTPU_LOAD", "1")

_REFUSED = re.compile(r"Used ([\d.]+)([KMGT]) of ([\d.]+)([KMGT]) hbm")
_UNITS = {"K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}


class Step(NamedTuple):
    """A compiled training step; bytes are those of one device.

    Attributes:
        fits: whether the compiler accepted it.
        parameters: bytes of the parameters.
        optimizer: bytes of the optimizer's state.
        total: bytes that the step needs at most at a time, those two included.
        limit: bytes that the compiler allows; None where it did not say.
        accessed: bytes moved through HBM in a step, by the compiler's count.
        collectives: what the devices exchange.
        forward_flops: multiplications and additions of the forward pass' matmuls, over all devices.
        devices: their number.
        seconds: that compiling took.
    """

    fits: bool
    parameters: int
    optimizer: int
    total: int
    limit: int | None
    accessed: float
    collectives: tuple[Collective, ...]
    forward_flops: int
    devices: int
    seconds: float


def topology_devices(topology: str, num_slices: int = 1) -> list[Any]:
    """The devices of an absent topology, e.g. "v5e:8x8".

    Raises:
        ValueError: there is no such topology, or no libtpu to ask.
    """
    options = {"num_slices": num_slices} if num_slices > 1 else {}
    try:
        return topologies.get_topology_desc(
            topology_name=topology, platform="tpu", **options
        ).devices
    except Exception as error:  # whatever libtpu raises
        raise ValueError(
            f"--topology={topology}, --num_slices={num_slices}: {str(error).splitlines()[0]} (it needs the package "
            "libtpu, and a name such as v5e:8x8, v5p:8x8x8 or v4:4x4x4)"
        ) from error


def compile_step(config: TrainConfig, devices: list[Any]) -> Step:
    """Compiles the step that `experiments.train` would run on these devices.

    Args:
        config: of the run; its mesh is laid over the devices.
        devices: of `topology_devices`.

    Raises:
        ValueError: config and mesh do not fit each other.
    """
    layout = make_layout(config.mesh, devices)
    check_layout(config, layout.mesh)
    graphdef, shapes = split_model(config.model)
    optimizer = make_optimizer(config.optimizer, config.steps)
    placed = place(layout.mesh, shapes, optimizer)
    opt_shapes = jax.eval_shape(optimizer.init, shapes)
    arguments = (
        _at(shapes, placed.params),
        _at(opt_shapes, placed.opt_state),
        _batch(config, layout),
    )
    step = make_train_step(graphdef, optimizer, config.accumulation, placed)
    # Counted without the mesh, on which kernels would hide their products.
    flops = sum(p.flops for p in matmuls(make_eval_step(graphdef), shapes, _batch(config, None)))
    began = time.perf_counter()
    fits, total, limit, accessed = True, 0, None, 0.0
    exchanged: tuple[Collective, ...] = ()
    with jax.set_mesh(layout.mesh), _quiet():
        lowered = step.lower(*arguments)
        try:
            compiled = lowered.compile()
        except jax.errors.JaxRuntimeError as error:
            refused = _REFUSED.search(str(error))
            if refused is None:
                raise
            fits = False
            total, limit = (int(float(refused[i]) * _UNITS[refused[i + 1]]) for i in (1, 3))
        else:
            memory = compiled.memory_analysis()
            total = memory.peak_memory_in_bytes or (
                memory.argument_size_in_bytes
                + memory.output_size_in_bytes
                - memory.alias_size_in_bytes
                + memory.temp_size_in_bytes
            )
            accessed = compiled.cost_analysis()["bytes accessed"]
            sizes = tuple(layout.mesh.shape[axis] for axis in AXES)
            exchanged = tuple(collectives(compiled.as_text(), AXES, sizes))
    return Step(
        fits,
        bytes_per_device(shapes, placed.params),
        bytes_per_device(opt_shapes, placed.opt_state),
        total,
        limit,
        accessed,
        exchanged,
        flops,
        len(devices),
        time.perf_counter() - began,
    )


def _at(shapes: Any, placed: Any) -> Any:
    return jax.tree.map(
        lambda x, sharding: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding),
        shapes,
        placed,
    )


def _batch(config: TrainConfig, layout: Layout | None) -> dict[str, jax.ShapeDtypeStruct]:
    shape = (config.batch_size, config.data.sequence_length)
    kinds = {"inputs": jnp.int32, "targets": jnp.int32, "loss_mask": jnp.bool_}
    if config.data.packing == "documents":
        kinds["reset"] = jnp.bool_
    where = None if layout is None else layout.batch
    return {name: jax.ShapeDtypeStruct(shape, kind, sharding=where) for name, kind in kinds.items()}


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without 64-bit mode, which splash attention does not compile under."""
    with jax.enable_x64(False):
        yield
