"""A sequence that ends within its first chunk: no product that XLA's CPU compiler gets wrong (`no_momentum`)."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from titans_jax import MemoryConfig, Titans, TitansConfig
from titans_jax.memory.state import no_momentum
from titans_jax.models.forecaster import Forecaster, ForecasterConfig


def products_with_constants(text):
    """The products in YNNPACK fusions of compiled HLO that read a broadcast scalar, beside a sum."""
    called = set(re.findall(r"%?ynn_fusion[.\d]* = .*?calls=%?([\w.\-]+)", text))
    found = []
    for name, body in re.findall(
        r"^%?([\w.\-]+) \([^\n]*\{\n(.*?)^\}", text, re.MULTILINE | re.DOTALL
    ):
        if name not in called or " reduce(" not in body:
            continue
        constants = set(
            re.findall(r"%?([\w.\-]+) = [^=\n]*? broadcast\([^)]*\), dimensions=\{\}", body)
        )
        products = re.findall(r"%?([\w.\-]+) = [^=\n]*? dot\(%?([\w.\-]+), %?([\w.\-]+)\)", body)
        found += [dot for dot, *operands in products if constants & set(operands)]
    return found


def forward(model, *inputs):
    """The compiled forward pass of a model."""
    graph, params = nnx.split(model)
    function = jax.jit(lambda params, *inputs: nnx.merge(graph, params)(*inputs))
    return function.lower(params, *inputs).compile()


def test_the_check_finds_the_product():
    x = jnp.ones((64, 16, 16))

    def read(zeros):
        def function(x):
            return jnp.sum(jnp.exp(x), axis=-1, keepdims=True) * (x @ zeros(x[0]))

        return jax.jit(function).lower(x).compile().as_text()

    if "ynn_fusion" not in read(jnp.zeros_like):
        pytest.skip("this XLA makes no fusions of YNNPACK")
    assert products_with_constants(read(jnp.zeros_like))
    assert not products_with_constants(read(no_momentum))


@pytest.mark.parametrize("variant", ["lmm", "mac", "mag"])
def test_a_language_model_in_its_first_chunk(variant):
    config = TitansConfig(
        variant=variant,
        vocab_size=16,
        dim=32,
        num_layers=1,
        num_heads=2,
        window=32,
        segment=64,
        feed_forward=32,
        persistent_tokens=0,
        memory=MemoryConfig(num_heads=2, depth=1, chunk=64),
    )
    compiled = forward(Titans(config, rngs=nnx.Rngs(0)), jnp.zeros((8, 48), jnp.int32))
    assert not products_with_constants(compiled.as_text())


def test_a_forecaster():
    model = Forecaster(ForecasterConfig(variates=21, season=4), rngs=nnx.Rngs(0))
    compiled = forward(model, jnp.zeros((32, 96, 21)), jnp.zeros((32,), jnp.int32))
    assert not products_with_constants(compiled.as_text())


def test_they_are_zeros():
    zeros = no_momentum(jnp.full((2, 3), 7, jnp.bfloat16))
    assert zeros.dtype == jnp.bfloat16
    np.testing.assert_array_equal(zeros, np.zeros((2, 3)))
