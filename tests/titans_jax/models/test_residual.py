"""MAC and MAG: a token reaches the gate, and MAC's memory, past the attention (paper, 4.4), which is quiet at first."""

import jax
import jax.numpy as jnp
import pytest
from flax import nnx

from tests.titans_jax.models.tiny_models import tiny_config
from tests.tolerances import OUTPUT_F64, assert_close
from titans_jax.models.mac import MemoryAsContext
from titans_jax.models.mag import MemoryAsGate

MIXERS = {"mac": MemoryAsContext, "mag": MemoryAsGate}


@pytest.mark.parametrize("name", MIXERS)
def test_without_values_to_attend_to_the_token_itself_is_gated(name):
    config = tiny_config(name)
    mixer = MIXERS[name](config, rngs=nnx.Rngs(0))
    attention = mixer.projections if name == "mac" else mixer.attention.projections
    attention.value.kernel[...] = jnp.zeros_like(attention.value.kernel[...])
    graph, parameters = nnx.split(mixer)

    @jax.jit
    def added_and_expected(parameters, x):
        mixer = nnx.merge(graph, parameters)
        n = mixer.norm(x)
        if name == "mac":
            remembered = mixer.memory(mixer.write_norm(n))[0]
        else:
            remembered = mixer.memory(n, prefix=mixer.norm(mixer.persistent()))[0]
        return mixer(x)[0] - x, mixer.combination(n, remembered)

    x = jax.random.normal(jax.random.key(0), (1, 2, config.dim), jnp.float64)
    assert_close(*added_and_expected(parameters, x), OUTPUT_F64)


def test_macs_attention_adds_in_proportion_to_a_gain_that_starts_small():
    mixer = MemoryAsContext(tiny_config("mac"), rngs=nnx.Rngs(0))
    assert_close(mixer.attention_gain[...], jnp.full(mixer.attention_gain.shape, 0.1), OUTPUT_F64)
    graph, parameters = nnx.split(mixer)

    @jax.jit
    def attended(parameters, x, gain):
        mixer = nnx.merge(graph, parameters)
        mixer.write_norm = lambda y: y
        mixer.attention_gain[...] = gain * jnp.ones_like(mixer.attention_gain[...])
        return mixer.memory_inputs(x, None)[0]

    x = jax.random.normal(jax.random.key(0), (1, 2, mixer.norm.scale.shape[0]), jnp.float64)
    none, some, all_of_it = (attended(parameters, x, gain) for gain in (0.0, 0.1, 1.0))
    assert_close(some - none, 0.1 * (all_of_it - none), OUTPUT_F64)
    assert jnp.any(all_of_it != none)
