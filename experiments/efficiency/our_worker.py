"""Our side of the comparison: runs titans_jax's NeuralMemory when asked.

The layer is configured to contain what titans-pytorch's contains: an RMSNorm in front, no
convolution, no output gate, an output projection only with several heads, because theirs has one
only then. `compare_peer` lists what still differs, in both directions.

XLA runs a batch of small matmuls on one core of a CPU, torch on all. So the CPU is given to JAX as one
device per core, as a user would with `jax.config.update("jax_num_cpu_devices", n)`, and the sequences, or
the heads where there is one sequence, are sharded over them: plain `jax.jit` on sharded arrays.
The options to XLA's compiler are those of a training run.
"""

import json
import os
import sys
from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import nnx
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from experiments.efficiency import peer_cases as cases
from experiments.efficiency import peer_protocol as worker
from experiments.training.devices import compiler_options
from titans_jax import MemoryConfig, NeuralMemory
from titans_jax.config import RULE_OF_0_1


class NormedMemory(nnx.Module):
    """RMSNorm and the memory, which is what titans-pytorch's module contains."""

    def __init__(self, case: cases.Case, *, rngs: nnx.Rngs):
        config = MemoryConfig(
            num_heads=case.heads,
            network="mlp",
            depth=case.depth,
            expansion=case.expansion,
            chunk=case.chunk,
            gates="token",
            momentum=True,
            forget=True,
            conv_width=0,
            read="after",
            output_gate=False,
            **RULE_OF_0_1,  # which has, as theirs, one anchor a chunk
        )
        self.norm = nnx.RMSNorm(case.dim, rngs=rngs)
        self.memory = NeuralMemory(
            case.dim, config, project_output=case.heads > 1, dtype=jnp.float32, rngs=rngs
        )

    def __call__(self, x: jax.Array) -> jax.Array:
        """The layer's output [B, T, D] from a fresh memory."""
        y, _ = self.memory(self.norm(x))
        return y


def count_devices(case: cases.Case, cores: int) -> int:
    """The most devices, at most one per core, that share the sequences or else the heads equally."""
    for divided in (case.batch, case.heads):
        counts = [n for n in range(2, cores + 1) if divided % n == 0]
        if counts:
            return counts[-1]
    return 1


def head_sharding(name: str) -> PartitionSpec:
    """The axis along which a parameter of the memory is split when its heads are shared out."""
    for part, spec in (
        ("initial_weights", PartitionSpec("devices")),
        ("gate_kernel", PartitionSpec(None, None, "devices")),
        ("gate_bias", PartitionSpec(None, "devices")),
        ("output", PartitionSpec("devices")),
        ("linear", PartitionSpec(None, "devices")),
    ):
        if part in name:
            return spec
    return PartitionSpec()


def share(case: cases.Case, parameters: nnx.State, x: jax.Array) -> tuple[nnx.State, jax.Array]:
    """Puts the input and the parameters on the devices."""
    devices = jax.device_count()
    mesh = jax.make_mesh((devices,), ("devices",), axis_types=(AxisType.Auto,))
    by_batch = case.batch % devices == 0

    def put(path: tuple, leaf: jax.Array) -> jax.Array:
        spec = PartitionSpec() if by_batch else head_sharding(jax.tree_util.keystr(path))
        return jax.device_put(leaf, NamedSharding(mesh, spec))

    spec = PartitionSpec("devices") if by_batch else PartitionSpec()
    shared = jax.device_put(x, NamedSharding(mesh, spec))
    return jax.tree_util.tree_map_with_path(put, parameters), shared


def main() -> None:
    """Reads the case from the command line, then serves requests."""
    case = cases.Case(**json.loads(sys.argv[1]))
    jax.config.update("jax_num_cpu_devices", count_devices(case, os.cpu_count() or 1))
    graph, parameters = nnx.split(NormedMemory(case, rngs=nnx.Rngs(0)))
    x = jax.random.normal(jax.random.key(0), (case.batch, case.length, case.dim), jnp.float32)
    parameters, x = share(case, parameters, x)

    def apply(parameters: nnx.State, x: jax.Array) -> jax.Array:
        return nnx.merge(graph, parameters)(x)

    def loss(parameters: nnx.State, x: jax.Array) -> jax.Array:
        return jnp.mean(jnp.square(apply(parameters, x)))

    forward = jax.jit(apply, compiler_options=compiler_options())
    forward_backward = jax.jit(
        jax.value_and_grad(loss, argnums=(0, 1)), compiler_options=compiler_options()
    )

    gpu, device = jax.default_backend() == "gpu", jax.devices()[0]

    def matmul() -> float:
        size = worker.GPU_MATMUL if gpu else worker.CPU_MATMUL
        a = jax.random.normal(jax.random.key(1), (size, size), jnp.float32)
        product = jax.jit(jnp.dot)
        return worker.matmul_rate(lambda: jax.block_until_ready(product(a, a)), size)

    def gpu_growth(call: Callable[[], None], calls: int) -> int:
        before = device.memory_stats()["bytes_in_use"]
        for _ in range(calls):
            call()
        return device.memory_stats()["peak_bytes_in_use"] - before

    passes = {
        "fwd": lambda: jax.block_until_ready(forward(parameters, x)),
        "fwdbwd": lambda: jax.block_until_ready(forward_backward(parameters, x)),
    }
    if gpu:
        worker.serve(passes, matmul, device.device_kind, gpu_growth)
    else:
        worker.serve(passes, matmul)


if __name__ == "__main__":
    main()
