"""Every step function against its recurrence, token by token, in float64; forward and gradient, with documents.

Each oracle is the recurrence as printed: linear attention with its normaliser (arXiv 2006.16236, Eq. 18-20), a scalar
decay (RetNet, arXiv 2307.08621, Eq. 6; Mamba-2, arXiv 2405.21060), a decay per feature (GLA, arXiv 2312.06635, Eq. 3),
and the delta rule with and without decay (arXiv 2406.06484; arXiv 2412.06464, Eq. 10).
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.tolerances import FUSED_SCAN_F32, GRAD_F64, OUTPUT_F64, assert_close
from titans_jax.baselines.delta import DeltaTokens, delta_step
from titans_jax.baselines.linear import (
    NORMALISER_EPSILON,
    LinearCarry,
    LinearTokens,
    linear_step,
)
from titans_jax.baselines.scan import chunk_scan
from titans_jax.baselines.vector_decay import VectorDecayTokens, vector_decay_step

BATCH, LENGTH, HEADS, KEYS, VALUES, CHUNK = 2, 21, 2, 3, 5, 8
RESET = np.zeros((BATCH, LENGTH), bool)
RESET[0, 3] = RESET[0, 11] = RESET[1, 8] = RESET[1, 14] = RESET[1, 15] = True


def drawn(seed=0, dtype=np.float64):
    rng = np.random.default_rng(seed)
    q, k = rng.normal(size=(2, BATCH, LENGTH, HEADS, KEYS)).astype(dtype)
    v = rng.normal(size=(BATCH, LENGTH, HEADS, VALUES)).astype(dtype)
    k = k / np.linalg.norm(k, axis=-1, keepdims=True)
    beta = rng.uniform(0, 1, size=(BATCH, LENGTH, HEADS)).astype(dtype)
    log_keep = -rng.exponential(0.5, size=(BATCH, LENGTH, HEADS)).astype(dtype)
    vector = -rng.exponential(2.0, size=(BATCH, LENGTH, HEADS, KEYS)).astype(dtype)
    state = rng.normal(size=(BATCH, HEADS, KEYS, VALUES)).astype(dtype)
    keys = np.abs(rng.normal(size=(BATCH, HEADS, 1, KEYS))).astype(dtype)
    return jax.tree.map(jnp.asarray, (q, k, v, beta, log_keep, vector, state, keys))


def problem(kind, dtype=np.float64):
    """The step, its carry and its tokens."""
    q, k, v, beta, log_keep, vector, state, keys = drawn(dtype=dtype)
    if kind == "normalised":
        return linear_step, LinearCarry(state, keys), LinearTokens(abs(q), abs(k), v, None)
    return {
        "scalar decay": (linear_step, LinearCarry(state, None), LinearTokens(q, k, v, log_keep)),
        "vector decay": (vector_decay_step, state, VectorDecayTokens(q, k, v, vector)),
        "delta": (delta_step, state, DeltaTokens(q, k, v, beta, None)),
        "gated delta": (delta_step, state, DeltaTokens(q, k, v, beta, log_keep)),
    }[kind]


KINDS = ("normalised", "scalar decay", "vector decay", "delta", "gated delta")


def oracle(kind, carry, tokens, reset):
    """One token after another, in every head."""

    def token(state, inputs):
        state, keys = state
        x, start = inputs
        if start is not None:
            clear = start[:, None, None, None]
            state, keys = jnp.where(clear, 0, state), jnp.where(clear, 0, keys)
        if kind in ("scalar decay", "gated delta"):
            state = jnp.exp(x.log_keep)[..., None, None] * state
        if kind == "vector decay":
            state = jnp.exp(x.log_keep)[..., None] * state
        write = x.v
        if "delta" in kind:
            write = x.beta[..., None] * (x.v - jnp.einsum("bhk,bhkv->bhv", x.k, state))
        state = state + x.k[..., :, None] * write[..., None, :]
        keys = keys + x.k[..., None, :]
        y = jnp.einsum("bhk,bhkv->bhv", x.q, state)
        if kind == "normalised":
            y = y / (jnp.einsum("bhk,bhik->bhi", x.q, keys) + NORMALISER_EPSILON)
        return (state, keys), y

    linear = isinstance(carry, LinearCarry)
    state = carry.state if linear else carry
    keys = jnp.zeros((BATCH, HEADS, 1, KEYS)) if not linear or carry.keys is None else carry.keys
    xs = jax.tree.map(lambda a: a.swapaxes(0, 1), tokens)
    flags = None if reset is None else reset.T
    (state, keys), y = jax.lax.scan(token, (state, keys), (xs, flags))
    if linear:
        end = LinearCarry(state, None if carry.keys is None else keys)
    else:
        end = state
    return end, y.swapaxes(0, 1)


def with_gradient(function, inputs):
    results, pull = jax.vjp(function, *inputs)
    rng = np.random.default_rng(1)
    cotangent = jax.tree.map(lambda a: jnp.asarray(rng.normal(size=a.shape), a.dtype), results)
    return results, pull(cotangent)


@pytest.mark.parametrize("reset", [None, RESET], ids=["one document", "documents"])
@pytest.mark.parametrize("kind", KINDS)
def test_the_chunk_form_is_the_recurrence(kind, reset):
    step, carry, tokens = problem(kind)
    flags = None if reset is None else jnp.asarray(reset)
    actual = functools.partial(chunk_scan, step, chunk=CHUNK, reset=flags, execution="chunked")
    results, gradients = jax.jit(functools.partial(with_gradient, actual))((carry, tokens))
    recurrent = functools.partial(oracle, kind, reset=flags)
    expected, slopes = jax.jit(functools.partial(with_gradient, recurrent))((carry, tokens))
    assert_close(results, expected, OUTPUT_F64)
    assert_close(gradients, slopes, GRAD_F64)


@pytest.mark.parametrize("kind", KINDS)
def test_the_kernel_is_the_scan(kind):
    """Interpreted for a TPU, in float32."""
    step, carry, tokens = problem(kind, np.float32)

    def run(tokens, **options):
        whole = jax.tree.map(lambda a: a[:, :16], tokens)
        return chunk_scan(step, carry, whole, chunk=8, execution="fused", **options)[1]

    kernel = functools.partial(run, implementation="mosaic_tpu", interpret=True)
    actual = with_gradient(kernel, (tokens,))
    expected = with_gradient(functools.partial(run, implementation="xla"), (tokens,))
    assert_close(actual, expected, FUSED_SCAN_F32)


def test_nothing_underflows():
    """A decay of exp(-200) at every token and feature leaves each token's own write, and finite gradients."""
    step, state, tokens = problem("vector decay", np.float32)
    tokens = tokens._replace(log_keep=jnp.full_like(tokens.log_keep, -200.0))
    run = functools.partial(chunk_scan, step, chunk=CHUNK, execution="chunked")
    (_, y), gradients = with_gradient(run, (state, tokens))
    alone = jnp.sum(tokens.q * tokens.k, axis=-1, keepdims=True) * tokens.v
    assert_close(y, alone, FUSED_SCAN_F32)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(gradients))
