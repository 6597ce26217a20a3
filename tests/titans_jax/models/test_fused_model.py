"""A whole model whose memories run in the kernel's body, against the scan over chunks."""

import functools

import jax
import jax.numpy as jnp
import pytest
from flax import nnx

from pallas_kernels import fused_scan
from tests import tolerances
from tests.titans_jax.models.tiny_models import CHUNK, moved, random_tokens, tiny_config
from titans_jax.config import MemoryConfig
from titans_jax.models import Titans, next_token_loss
from titans_jax.tiles import scan


def loss_and_gradients(name, execution):
    memory = MemoryConfig(num_heads=2, chunk=CHUNK, execution=execution)
    config = tiny_config(name, dtype="float32", num_layers=1, memory=memory)
    graph, params = nnx.split(Titans(config, rngs=nnx.Rngs(0)))
    tokens = random_tokens(length=2 * CHUNK + 1)
    batch = {
        "inputs": tokens[:, :-1],
        "targets": tokens[:, 1:],
        "loss_mask": jnp.ones(tokens[:, 1:].shape, jnp.bool_),
    }

    def loss(params):
        return next_token_loss(nnx.merge(graph, params), batch)[0]

    return jax.jit(jax.value_and_grad(loss))(moved(params))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["mac"])
def test_the_kernel_changes_nothing(name, monkeypatch):
    """Loss and the gradients of all parameters; the kernel is interpreted for a TPU."""
    expected = loss_and_gradients(name, "chunked")
    calls = []

    def kernel(*args, **options):
        calls.append(args)
        return fused_scan(*args, **options, implementation="mosaic_tpu", interpret=True)

    monkeypatch.setattr(scan, "fused_scan", functools.wraps(fused_scan)(kernel))
    actual = loss_and_gradients(name, "fused")
    assert calls
    tolerances.assert_close(actual[0], expected[0], tolerances.OUTPUT_F32)
    tolerances.assert_close(
        jax.tree.leaves(actual[1]), jax.tree.leaves(expected[1]), tolerances.GRAD_F32
    )
