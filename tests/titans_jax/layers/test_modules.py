"""Feed-forward, persistent tokens and attention modules: what their parameters are and what they do."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from tests.tolerances import OUTPUT_F64, assert_close
from titans_jax.layers.cached_attention import decoding_state
from titans_jax.layers.feed_forward import SwiGLU
from titans_jax.layers.linear import linear
from titans_jax.layers.norms import rms_norm
from titans_jax.layers.persistent import PersistentTokens
from titans_jax.layers.self_attention import AttentionProjections, SelfAttention


def test_linear_has_the_deviation_it_says():
    layer = linear(400, 300, jnp.bfloat16, scale=0.5, rngs=nnx.Rngs(0))
    kernel = layer.kernel[...]
    assert layer.bias is None
    assert kernel.dtype == jnp.float32
    assert abs(float(kernel.std()) * 400**0.5 / 0.5 - 1) < 0.02
    assert layer(jnp.ones((2, 400), jnp.bfloat16)).dtype == jnp.bfloat16


def test_swiglu_is_its_definition():
    layer = SwiGLU(4, 6, jnp.float64, residual_scale=0.1, rngs=nnx.Rngs(0))
    x = np.random.default_rng(0).normal(size=(2, 3, 4))
    gate, up, down = (np.asarray(p.kernel[...]) for p in (layer.gate, layer.up, layer.down))
    assert gate.dtype == np.float64
    hidden = x @ gate
    expected = (hidden / (1 + np.exp(-hidden)) * (x @ up)) @ down
    assert_close(layer(jnp.asarray(x)), expected, OUTPUT_F64)


def test_no_persistent_tokens_are_no_parameters():
    none = PersistentTokens(0, 4, jnp.float32, rngs=nnx.Rngs(0))
    assert none().shape == (0, 4)
    assert not jax.tree.leaves(nnx.state(none))
    some = PersistentTokens(3, 4, jnp.bfloat16, rngs=nnx.Rngs(0))
    assert (some().shape, some().dtype) == ((3, 4), jnp.bfloat16)
    assert (some() != 0).all()


def test_queries_and_keys_are_normalised_head_by_head_and_values_are_not():
    layer = AttentionProjections(8, 2, jnp.float64, rngs=nnx.Rngs(0))
    layer.query_norm.scale[...] = jnp.arange(1.0, 5)
    x = jnp.asarray(np.random.default_rng(0).normal(size=(3, 5, 8)))
    kernels = (np.asarray(p.kernel[...]) for p in (layer.query, layer.key, layer.value))
    q, k, v = ((x @ kernel).reshape(3, 5, 2, 4) for kernel in kernels)
    assert_close(layer.queries(x), rms_norm(q, jnp.arange(1.0, 5)), OUTPUT_F64)
    keys, values = layer.keys_values(x)
    assert_close(keys, rms_norm(k, jnp.ones(4)), OUTPUT_F64)
    assert_close(values, v, OUTPUT_F64)


def test_full_attention_asks_for_the_length_of_the_stream():
    attention = SelfAttention(8, 2, None, 100.0, jnp.float32, rngs=nnx.Rngs(0))
    with pytest.raises(
        ValueError, match="max_length is None, but full attention keeps every token"
    ):
        attention.init_state(1, None)
    windowed = SelfAttention(8, 2, 5, 100.0, jnp.float32, rngs=nnx.Rngs(0))
    assert windowed.init_state(1, None).keys.shape == (1, 5, 2, 4)


def test_a_state_that_generates_takes_one_token_without_flags():
    attention = SelfAttention(8, 2, 5, 100.0, jnp.float32, rngs=nnx.Rngs(0))
    state = decoding_state(attention.init_state(1, None), 100.0)
    prefix = jnp.zeros((0, 8))
    with pytest.raises(ValueError, match="one at a time, without mask and reset, got 2 tokens"):
        attention(jnp.zeros((1, 2, 8)), prefix, state)
    with pytest.raises(ValueError, match="reset True"):
        attention(jnp.zeros((1, 1, 8)), prefix, state, reset=jnp.ones((1, 1), jnp.bool_))
