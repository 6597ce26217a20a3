"""What a GPU runs by default against the oracle and the plain scan there: models, attention, streams."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from tests import tolerances
from tests.on_gpu import needs_gpu
from titans_jax import Titans, preset
from titans_jax.inference import GREEDY, generate, prefill
from titans_jax.layers import attention_gpu
from titans_jax.models import next_token_loss

pytestmark = needs_gpu
LENGTH, CHUNK = 128, 16


@pytest.fixture(autouse=True)
def _full_float32():
    with jax.default_matmul_precision("highest"):
        yield


def make(variant, execution):
    config = preset("tiny", variant, dim=64, feed_forward=128, num_layers=1, dtype="float32")
    memory = dataclasses.replace(config.memory, chunk=CHUNK, execution=execution)
    return Titans(dataclasses.replace(config, memory=memory), rngs=nnx.Rngs(0))


def tokens(batch=2, length=LENGTH):
    return jax.random.randint(jax.random.key(0), (batch, length + 1), 0, 256)


def loss_and_gradients(variant, execution):
    graph, params = nnx.split(make(variant, execution))
    ids = tokens()
    batch = {
        "inputs": ids[:, :-1],
        "targets": ids[:, 1:],
        "loss_mask": jnp.ones((2, LENGTH), jnp.bool_),
    }
    run = jax.jit(jax.value_and_grad(lambda p: next_token_loss(nnx.merge(graph, p), batch)[0]))
    return run(params)


@pytest.mark.parametrize("variant", ["mac", "mag", "mal", "lmm"])
def test_the_default_equals_the_oracle(variant):
    """Loss and the gradients of all parameters, against the token-by-token execution."""
    loss, gradients = loss_and_gradients(variant, "auto")
    expected = loss_and_gradients(variant, "sequential")
    tolerances.assert_close(loss, expected[0], tolerances.OUTPUT_F32)
    tolerances.assert_close(
        jax.tree.leaves(gradients), jax.tree.leaves(expected[1]), tolerances.GRAD_F32
    )


@pytest.mark.parametrize("variant", ["mac", "lmm"])
def test_a_stream_equals_one_forward(variant):
    model = make(variant, "auto")
    ids = np.asarray(tokens(1))[0, :100]
    stream = prefill(model, [ids])
    more = generate(model, stream, 8, GREEDY).tokens[0]
    whole = np.concatenate([ids, np.asarray(more)])
    logits = model(jnp.asarray(whole)[None])[0]
    np.testing.assert_array_equal(jnp.argmax(logits[0, 99:-1], axis=-1), more)


def test_cudnn_attends_as_xla_does():
    keys = jax.random.split(jax.random.key(0), 7)
    q, rotated_q, k, v = (jax.random.normal(key, (2, 64, 2, 32), jnp.bfloat16) for key in keys[:4])
    prefix_keys, prefix_values = (
        jax.random.normal(key, (4, 2, 32), jnp.bfloat16) for key in keys[4:6]
    )
    visible = jnp.broadcast_to(jnp.tril(jnp.ones((64, 64), jnp.bool_)), (2, 64, 64))
    arguments = (q, rotated_q, k, v, visible, prefix_keys, prefix_values)
    assert attention_gpu.runs(*arguments)
    actual, expected = (
        jax.jit(functools.partial(attention_gpu.attend, implementation=implementation))(*arguments)
        for implementation in ("cudnn", "xla")
    )
    tolerances.assert_close(actual, expected, tolerances.OUTPUT_BF16)
