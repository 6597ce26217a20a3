"""MAC and MAG: a token reaches the gate, and MAC's memory, past the attention (paper, 4.4)."""

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
