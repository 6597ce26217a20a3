"""Compiles a program for a TPU that is not here, in a process of its own, and brings back its static figures.

A program is named, not passed: "module:function" or "folder/file.py:function" with keyword arguments. The function
returns ``(fn, arguments)``, arguments being pytrees of ``jax.ShapeDtypeStruct``; ``jax.jit(fn)`` is compiled for the
first device of the topology. One process per program, because libtpu reads its flags when it is loaded, and because
a program that the compiler refuses, or one that takes for ever, must not take the others with it.
"""

import dataclasses
import importlib
import importlib.util
import re
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.experimental import topologies

from experiments.kernel_report import children
from experiments.kernel_report.blocks import Traffic, traffic
from experiments.kernel_report.hlo_cycles import estimated_cycles
from experiments.kernel_report.schedule import DUMP_LABELS, Schedule, read_schedules

_CUSTOM_CALL = re.compile(r'%([\w.-]+) = [^\n]*custom_call_target="tpu_custom_call"[^\n]*')
_SCOPED = re.compile(
    r'"used_scoped_memory_configs":\[\{"memory_space":"1","offset":"\d+","size":"(\d+)"'
)


@dataclasses.dataclass(frozen=True)
class Compiled:
    """What compiling one program told: static estimates.

    Attributes:
        kernels: schedules of its Pallas kernels, in program order.
        vmem: bytes of VMEM per kernel, by name.
        traffic: what its kernels move, in the order of tracing.
        xla_cycles: estimated cycles of everything else, trip counts of loops included.
        temp_bytes: HBM for temporaries.
        seconds: that compiling took.
    """

    kernels: tuple[Schedule, ...]
    vmem: dict[str, int]
    traffic: tuple[Traffic, ...]
    xla_cycles: int
    temp_bytes: int
    seconds: float


def measure(program: str, topology: str, timeout: float = 300.0, **arguments: Any) -> Compiled:
    """Compiles a program for a topology and counts its kernels' schedules.

    Args:
        program: "module:function" or "path/to/file.py:function", which returns ``(fn, arguments)``.
        topology: e.g. "v5e:2x2".
        timeout: seconds.
        **arguments: JSON values that the function is called with.

    Raises:
        children.ChildError: if it does not compile, with the compiler's message.
    """
    started = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="kernel_report_dumps_") as dumps:
        result = children.call(
            f"{__name__}:compile_program",
            {"program": program, "topology": topology, "arguments": arguments},
            timeout=timeout,
            environment={
                "JAX_PLATFORMS": "cpu",
                "TPU_SKIP_MDS_QUERY": "1",
                "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
                "LIBTPU_INIT_ARGS": f"--xla_jf_dump_to={dumps} --xla_jf_dump_llo_text=true"
                f" --xla_jf_dump_llo_pass_label_regex={DUMP_LABELS}",
            },
        )
        schedules = read_schedules(Path(dumps), tuple(result["vmem"]))
    return Compiled(
        kernels=tuple(schedules),
        vmem=result["vmem"],
        traffic=tuple(
            Traffic(**(call | {"grid": tuple(call["grid"])})) for call in result["traffic"]
        ),
        xla_cycles=result["xla_cycles"],
        temp_bytes=result["temp_bytes"],
        seconds=time.monotonic() - started,
    )


def load_program(program: str) -> Callable[..., Any]:
    """The function that "module:function" or "file.py:function" names.

    Raises:
        ValueError: without a colon, or without such a function.
    """
    where, colon, name = program.rpartition(":")
    if not colon:
        raise ValueError(
            f"program must be 'module:function' or 'file.py:function', got {program!r}"
        )
    if where.endswith(".py"):
        spec = importlib.util.spec_from_file_location(Path(where).stem, where)
        if spec is None or spec.loader is None:
            raise ValueError(f"program {program!r}: {where} cannot be loaded")
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
    else:
        module = importlib.import_module(where)
    if not hasattr(module, name):
        raise ValueError(f"program {program!r}: {where} has no function {name!r}")
    return getattr(module, name)


def kernels_and_vmem(hlo: str) -> dict[str, int]:
    """VMEM bytes of every Pallas kernel in a compiled program's text, by the custom call's name."""
    vmem = {}
    for match in _CUSTOM_CALL.finditer(hlo):
        scoped = _SCOPED.search(match[0])
        vmem[match[1]] = int(scoped[1]) if scoped else 0
    return vmem


def compile_program(program: str, topology: str, arguments: dict[str, Any]) -> dict[str, Any]:
    """What `measure` runs in the child, under its flags; the fields of `Compiled` that need no dumps."""
    devices = topologies.get_topology_desc(topology_name=topology, platform="tpu").devices
    # Parts of Pallas ask the mesh, not the arguments, which chip they compile for.
    mesh = jax.sharding.Mesh(np.array(devices[:1]), ("device",))
    sharding = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())
    fn, abstract = load_program(program)(**arguments)
    abstract = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding), abstract
    )
    with jax.set_mesh(mesh):
        traced = jax.jit(fn).trace(*abstract)
        compiled = traced.lower().compile()
    hlo, memory = compiled.as_text(), compiled.memory_analysis()
    if hlo is None or memory is None:
        raise RuntimeError("the compiler gives no text or no memory analysis of this program")
    return {
        "vmem": kernels_and_vmem(hlo),
        "traffic": [dataclasses.asdict(call) for call in traffic(traced.jaxpr.jaxpr)],
        "xla_cycles": estimated_cycles(hlo),
        "temp_bytes": memory.temp_size_in_bytes,
    }
