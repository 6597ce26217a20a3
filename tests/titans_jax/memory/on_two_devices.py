"""Run by test_fused.py in a process of its own: the fused memory, shared out over two devices, is the same."""

import os

os.environ["JAX_PLATFORMS"] = "cpu"

import sys

import jax
import jax.numpy as jnp
from flax import nnx
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from tests import tolerances
from titans_jax import MemoryConfig, NeuralMemory

BATCH, LENGTH, WIDTH = 2, 8, 8


def value_and_gradients(execution, x, prefix):
    """Loss and gradients of a layer whose prefix is written once, for a batch of one."""
    config = MemoryConfig(num_heads=2, chunk=4, execution=execution)
    graph, params = nnx.split(NeuralMemory(WIDTH, config, rngs=nnx.Rngs(0)))

    def loss(params, x, prefix):
        y, _ = nnx.merge(graph, params)(x, prefix=prefix)
        return jnp.sum(jnp.sin(y))

    return jax.jit(jax.value_and_grad(loss, argnums=(0, 1, 2)))(params, x, prefix)


def main(axis: str) -> None:
    jax.config.update("jax_num_cpu_devices", 2)
    x = jax.random.normal(jax.random.key(1), (BATCH, LENGTH, WIDTH), jnp.float32)
    prefix = jax.random.normal(jax.random.key(2), (4, WIDTH), jnp.float32)
    expected = jax.tree.leaves(value_and_gradients("chunked", x, prefix))
    mesh = jax.make_mesh((2,), (axis,), axis_types=(AxisType.Auto,))
    spec = PartitionSpec("data") if axis == "data" else PartitionSpec()
    with jax.set_mesh(mesh):
        x = jax.device_put(x, NamedSharding(mesh, spec))
        prefix = jax.device_put(prefix, NamedSharding(mesh, PartitionSpec()))
        actual = jax.tree.leaves(value_and_gradients("fused", x, prefix))
    tolerances.assert_close(actual, expected, tolerances.GRAD_F32)


if __name__ == "__main__":
    main(sys.argv[1])
