"""The layers of the model compile, forward and backward, into one kernel for a TPU that is not here."""

import functools

import jax
import jax.numpy as jnp
import pytest
from flax import nnx

from tests.pallas_kernels.tpu_compile import compile_for
from titans_jax import RecurrenceConfig, TitansConfig
from titans_jax.baselines import RecurrentMixer


@pytest.mark.parametrize("variant", ["mamba2", "gla", "gated_deltanet"])
def test_a_layer_is_a_kernel(variant):
    config = TitansConfig(
        variant=variant,
        dim=256,
        dtype="bfloat16",
        recurrence=RecurrenceConfig(num_heads=2, chunk=128, state_size=128),
    )
    graph, parameters = nnx.split(nnx.eval_shape(lambda: RecurrentMixer(config, rngs=nnx.Rngs(0))))
    x = jax.ShapeDtypeStruct((2, 256, 256), jnp.bfloat16)

    def gradients(parameters, x):
        def total(parameters, x):
            return jnp.sum(nnx.merge(graph, parameters)(x)[0].astype(jnp.float32))

        return jax.grad(total, argnums=(0, 1))(parameters, x)

    module = compile_for("v5e", functools.partial(gradients), parameters, x).as_text()
    assert "fused_scan_forward" in module
    assert "fused_scan_backward" in module
