"""The product of Eq. 25 and 28, in its three readings."""

import dataclasses

import jax
import jax.numpy as jnp
import pytest
from flax import nnx

from tests.titans_jax.models.tiny_models import tiny_config
from tests.tolerances import OUTPUT_F64, assert_close
from titans_jax.layers.norms import RMS_EPSILON
from titans_jax.models.combine import GatedCombination

FORMULAS = {
    "mutual": lambda y, m: y * jax.nn.sigmoid(m) + m * jax.nn.sigmoid(y),
    "sigmoid": lambda y, m: y * jax.nn.sigmoid(m),
    "silu": lambda y, m: y * jax.nn.silu(m),
}


def normalised(x):
    return x / jnp.sqrt(jnp.mean(x**2, axis=-1, keepdims=True) + RMS_EPSILON)


@pytest.mark.parametrize("combine", FORMULAS)
def test_the_product(combine):
    config = dataclasses.replace(tiny_config("mag"), combine=combine)
    layer = GatedCombination(config, rngs=nnx.Rngs(0))
    layer.attention_norm.scale[...] = 2 * layer.attention_norm.scale[...]
    y, m = jax.random.normal(jax.random.key(0), (2, 3, 4, config.dim), jnp.float64)
    expected = FORMULAS[combine](2 * normalised(y), m) @ layer.output.kernel[...]
    assert_close(layer(y, m), expected, OUTPUT_F64)


def test_the_memory_reaches_the_output_by_itself_only_if_the_gating_is_mutual():
    y, m = jnp.zeros((1, 1, tiny_config("mag").dim)), jnp.ones((1, 1, tiny_config("mag").dim))
    for combine in FORMULAS:
        config = dataclasses.replace(tiny_config("mag"), combine=combine)
        out = GatedCombination(config, rngs=nnx.Rngs(0))(y, m)
        assert bool(jnp.any(out != 0)) == (combine == "mutual")
