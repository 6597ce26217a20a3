"""Attention by ``jax.nn.dot_product_attention``: its XLA form equals ours here; cuDNN is refused without a GPU."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.tolerances import GRAD_F32, OUTPUT_F32, assert_close
from titans_jax.layers import attention, attention_gpu

HEADS, HEAD_DIM = 2, 8


def random_inputs(prefix, keys, dtype=jnp.float32, queries=6):
    """Arguments of `attention.attend` with two leading axes; every query sees its own key at least."""
    names = jax.random.split(jax.random.key(0), 6)
    lead = (2, 3)
    sizes = [(*lead, queries)] * 2 + [(*lead, keys)] * 2 + [(prefix,)] * 2
    arrays = [
        jax.random.normal(name, (*size, HEADS, HEAD_DIM), dtype)
        for name, size in zip(names, sizes, strict=True)
    ]
    visible = np.random.default_rng(1).random((*lead, queries, keys)) < 0.5
    visible |= np.eye(queries, keys, dtype=bool)
    return arrays[:4], jnp.asarray(visible), arrays[4:]


@pytest.mark.parametrize(("prefix", "keys"), [(0, 8), (3, 8)], ids=["even", "odd"])
def test_the_library_equals_ours(prefix, keys):
    tokens, visible, persistent = random_inputs(prefix, keys)

    def evaluate(attend, **options):
        def loss(tokens, persistent):
            out = attend(*tokens, visible, *persistent, **options)
            return jnp.sum(jnp.sin(out)), out

        return jax.jit(jax.grad(loss, argnums=(0, 1), has_aux=True))(tokens, persistent)

    expected_gradients, expected = evaluate(attention.attend)
    gradients, out = evaluate(attention_gpu.attend, implementation="xla")
    assert_close(out, expected, OUTPUT_F32)
    assert_close(gradients, expected_gradients, GRAD_F32)


def test_cudnn_does_not_run_without_a_gpu(monkeypatch):
    tokens, visible, persistent = random_inputs(3, 64, jnp.bfloat16, queries=64)
    arguments = (*tokens, visible, *persistent)
    assert not attention_gpu.runs(*arguments)
    # Even on a GPU's platform it is asked first, and says that cuDNN is missing.
    monkeypatch.setattr(attention_gpu, "target_platform", lambda: "gpu")
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    assert not attention_gpu.runs(*arguments)
    # Without the refusal it would run.
    by_xla = functools.partial(attention_gpu.attend, implementation="xla")
    monkeypatch.setattr(attention_gpu, "attend", by_xla)
    assert attention_gpu.runs(*arguments)
    wide = jax.tree.map(
        lambda x: x.astype(jnp.float32) if x.dtype == jnp.bfloat16 else x, arguments
    )
    assert not attention_gpu.runs(*wide)
    few = (*(x[..., :2, :, :] for x in tokens[:2]), *tokens[2:], visible[..., :2, :], *persistent)
    assert not attention_gpu.runs(*few)


def test_lowers_for_a_gpu_elsewhere():
    state = attention.init_window_state(2, 16, HEADS, HEAD_DIM, jnp.bfloat16)
    tokens = jnp.zeros((2, 64, HEADS, HEAD_DIM), jnp.bfloat16)
    prefix = jnp.zeros((3, HEADS, HEAD_DIM), jnp.bfloat16)

    def loss(q, k, v):
        out, _ = attention.sliding_window_attention(q, k, v, prefix, prefix, state, rope_base=1e4)
        return jnp.sum(out.astype(jnp.float32))

    traced = jax.jit(jax.grad(loss, argnums=(0, 1, 2))).trace(tokens, tokens, tokens)
    text = traced.lower(lowering_platforms=("cuda",)).as_text()
    assert "dot_general" in text
    assert "custom_call" not in text
