"""Where a baseline is a special case of the Titans memory, the two agree."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from tests.titans_jax.baselines.test_steps import drawn
from tests.tolerances import OUTPUT_F64, STATE_F64, assert_close
from titans_jax import RecurrenceConfig, TitansConfig
from titans_jax.baselines.delta import DeltaTokens, delta_step
from titans_jax.baselines.mixer import LAYERS
from titans_jax.baselines.scan import chunk_scan
from titans_jax.memory import Gates, MemoryState, MLPNetwork, Rule, memory_scan


@pytest.mark.parametrize("gated", [False, True])
def test_the_delta_rule_is_the_linear_memory_at_chunk_1(gated):
    """theta = keep beta / 2 and values v / keep: the rule decays before it compares, Eq. 13 after (the paper's M)."""
    q, k, _, beta, log_keep, _, state, _ = drawn()
    state, v = state[..., : k.shape[-1]], jnp.flip(q, axis=1)  # as wide as the keys
    tokens = DeltaTokens(q, k, v, beta, log_keep if gated else None)
    end, y = chunk_scan(delta_step, state, tokens, chunk=8, execution="chunked")
    keep = jnp.exp(log_keep) if gated else jnp.ones_like(log_keep)
    weights = (state,)
    position = jnp.zeros(q.shape[:1], jnp.int32)
    memory = MemoryState(weights, jax.tree.map(jnp.zeros_like, weights), weights, position)
    gates = Gates(log_keep if gated else None, None, keep * beta / 2)
    expected, after = memory_scan(
        Rule(MLPNetwork("mlp", 1)), memory, q, k, v / keep[..., None], gates, chunk=1
    )
    assert np.abs(expected).max() > 0.1
    assert_close(y, expected, OUTPUT_F64)
    assert_close(end, after.weights[0], STATE_F64)


@pytest.mark.parametrize("name", ["deltanet", "gated_deltanet", "ttt_linear"])
def test_a_step_bias_is_a_constant_input_of_the_write_gate(name):
    """A feature of x that is always 1 gives the published layer the bias by its weight in the write gate."""
    recurrence = RecurrenceConfig(num_heads=2, chunk=8, mini_batch=4)
    config = TitansConfig(variant=name, dim=16, num_heads=2, dtype="float64", recurrence=recurrence)
    biased = dataclasses.replace(config, recurrence=dataclasses.replace(recurrence, step_bias=-5.0))
    x = jax.random.normal(jax.random.key(0), (2, 24, 16), jnp.float64).at[..., 0].set(1.0)
    published, layer = (LAYERS[name](c, rngs=nnx.Rngs(0)) for c in (config, biased))
    before, _ = layer(x, layer.init_state(2), None, None)
    unbiased, _ = published(x, published.init_state(2), None, None)
    if name == "ttt_linear":
        gate = published.memory.gate_kernel
        gate[...] = gate[...].at[0, 2].add(-5.0)
    else:
        published.beta_kernel[...] = published.beta_kernel[...].at[0].add(-5.0)
    after, _ = published(x, published.init_state(2), None, None)
    assert_close(after, before, OUTPUT_F64)
    assert np.abs(np.asarray(unbiased - before)).max() > 1e-3
