"""The memory networks against numpy."""

import jax.numpy as jnp
import numpy as np
import pytest

from tests import tolerances
from titans_jax.memory.networks import MLPNetwork, apply_network
from titans_jax.memory.rule import Rule

TOKENS, WIDTH = 5, 4
ALL = [(kind, depth) for kind in ("mlp", "residual") for depth in (1, 2, 3, 4)]


def setup(kind, depth, dtype=jnp.float64):
    """A network, its weights and gain, keys and values."""
    network = MLPNetwork(kind, depth, 3)
    rng = np.random.default_rng(depth)
    weights = tuple(
        jnp.asarray(rng.normal(size=shape) / shape[0] ** 0.5, dtype)
        for shape in network.shapes(WIDTH)
    )
    gain = (
        jnp.asarray(rng.uniform(0.5, 1.5, size=(1, WIDTH)), dtype) if kind == "residual" else None
    )
    k, v = jnp.asarray(rng.normal(size=(2, TOKENS, WIDTH)), dtype)
    return network, weights, gain, k, v


@pytest.mark.parametrize(("kind", "depth"), ALL)
def test_application(kind, depth):
    """A plain MLP with SiLU between its layers; residual: x + gain * LayerNorm(MLP(x))."""
    network, weights, gain, x, _ = setup(kind, depth)
    z = np.asarray(x)
    for layer, matrix in enumerate(weights):
        z = (z / (1 + np.exp(-z)) if layer else z) @ np.asarray(matrix)
    if kind == "residual":
        normal = (z - z.mean(-1, keepdims=True)) / np.sqrt(z.var(-1, keepdims=True) + 1e-6)
        z = np.asarray(x) + np.asarray(gain) * normal
    tolerances.assert_close(apply_network(network, weights, gain, x), z, tolerances.OUTPUT_F64)
    one = Rule(network, gain=gain).function()(weights, x[2])
    tolerances.assert_close(one, z[2], tolerances.OUTPUT_F64)


def test_shapes():
    assert MLPNetwork("mlp", 1, 4).shapes(3) == ((3, 3),)
    assert MLPNetwork("residual", 3, 2).shapes(3) == ((3, 6), (6, 6), (6, 3))
