"""A whole training step, with attention and without, compiles for a TPU that is not here, its memories in kernels."""

import jax
import jax.numpy as jnp
import optax
import pytest

from experiments.training.step import make_train_step, split_model
from tests.pallas_kernels.tpu_compile import compile_for
from titans_jax import MemoryConfig, TitansConfig

BATCH, LENGTH = 2, 512


def training_step(variant):
    """The step of a small model with the heads and chunks of the presets, and its arguments' shapes."""
    config = TitansConfig(
        variant=variant,
        dim=256,
        num_layers=2,
        num_heads=2,
        window=128,
        segment=256,
        persistent_tokens=4,
        feed_forward=256,
        memory=MemoryConfig(num_heads=1, chunk=256),
        dtype="bfloat16",
    )
    graph, params = split_model(config)
    optimizer = optax.adamw(1e-3)
    tokens = jax.ShapeDtypeStruct((BATCH, LENGTH), jnp.int32)
    flags = jax.ShapeDtypeStruct((BATCH, LENGTH), jnp.bool_)
    batch = {"inputs": tokens, "targets": tokens, "loss_mask": flags, "reset": flags}
    step = make_train_step(graph, optimizer, accumulation=1)
    return step, (params, jax.eval_shape(optimizer.init, params), batch)


@pytest.mark.slow
@pytest.mark.parametrize("variant", ["mac", "lmm"])
def test_training_step_on_v5e(variant):
    step, arguments = training_step(variant)
    # Unwrapped: the jitted step has options for the compiler of this machine.
    with jax.enable_x64(False):  # which splash attention does not compile under
        text = compile_for("v5e", step.__wrapped__, *arguments).as_text()
    assert "fused_scan_forward" in text
    assert "fused_scan_backward" in text
    assert ("splash_mha" in text) == (variant != "lmm")
