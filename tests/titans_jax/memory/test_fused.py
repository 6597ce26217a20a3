"""The memory in the kernel's body: interpreted for a TPU, against the scan over chunks in float32."""

import functools
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests import tolerances
from titans_jax.memory import Carry, Gates, MLPNetwork
from titans_jax.memory.chunked import GridTokens, chunked_scan
from titans_jax.memory.fused import fused_chunk_scan

REPOSITORY = Path(__file__).parents[3]
CHUNKS, BATCH, HEADS, TILE, WIDTH = 3, 2, 2, 8, 8

PLAIN = {"network": MLPNetwork("mlp", 2, 2)}
KINDS = {
    "depth 1": {"network": MLPNetwork("mlp", 1)},
    "depth 2": PLAIN,
    "residual of depth 3, two tiles": {"network": MLPNetwork("residual", 3, 1), "tiles": 2},
    "mask, resets, unfinished chunk": PLAIN | {"flags": True},
    "no momentum, read before": PLAIN | {"momentum": False, "read": "before"},
    "no forgetting": PLAIN | {"forget": False},
}


def problem(network, tiles=1, flags=False, momentum=True, forget=True, read="after"):
    """Arguments of an execution: those to differentiate, and a function of them and the execution."""
    rng = np.random.default_rng(0)

    def array(*shape):
        return jnp.asarray(rng.normal(size=shape), jnp.float32)

    def decay(wanted):
        return -jnp.abs(array(CHUNKS, tiles, BATCH, TILE, HEADS)) if wanted else None

    shapes = network.shapes(WIDTH)
    weights, momenta = (tuple(0.3 * array(BATCH, HEADS, *s) for s in shapes) for _ in range(2))
    q, k, v = (0.3 * array(CHUNKS, tiles, BATCH, TILE, HEADS, WIDTH) for _ in range(3))
    theta = 0.1 * jnp.abs(array(CHUNKS, tiles, BATCH, TILE, HEADS))
    gates = Gates(decay(forget), decay(momentum), theta)
    start = tuple(0.3 * array(HEADS, *s) for s in shapes)
    gain = array(HEADS, 1, WIDTH) if network.kind == "residual" else None
    inputs = (gain, Carry(weights, momenta), q, k, v, gates, start)
    mask = reset = completed = None
    if flags:
        mask = jnp.asarray(rng.random((CHUNKS, tiles, BATCH, TILE)) < 0.7)
        gates_on = mask[..., None]
        inputs = (
            *inputs[:5],
            Gates(*(None if g is None else jnp.where(gates_on, g, 0.0) for g in gates)),
            start,
        )
        reset = jnp.asarray([[False, True], [True, False], [False, False]])
        completed = jnp.asarray([[True, True], [True, False], [False, False]])

    def run(execution, gain, carry, q, k, v, gates, start):
        initial = Carry(start, jax.tree.map(jnp.zeros_like, start)) if flags else None
        tokens = GridTokens(q, k, v, gates, mask, reset, completed)
        carry, anchor, y = execution(
            network,
            gain,
            carry,
            carry.weights,
            tokens,
            initial,
            read=read,
            bound_step=not network.linear,
        )
        return carry, anchor, y

    return inputs, run


def value_and_pullback(run, inputs):
    results, pull = jax.vjp(run, *inputs)
    rng = np.random.default_rng(1)
    cotangent = jax.tree.map(lambda a: jnp.asarray(rng.normal(size=a.shape), a.dtype), results)
    return results, pull(cotangent)


@pytest.mark.parametrize("kind", KINDS)
def test_the_kernel_equals_the_scan_over_chunks(kind):
    inputs, run = problem(**KINDS[kind])
    kernel = functools.partial(fused_chunk_scan, implementation="mosaic_tpu", interpret=True)
    expected = jax.jit(functools.partial(value_and_pullback, functools.partial(run, chunked_scan)))
    actual = functools.partial(value_and_pullback, functools.partial(run, kernel))
    results, gradients = expected(inputs)
    kernel_results, kernel_gradients = actual(inputs)
    tolerances.assert_close(kernel_results, results, tolerances.OUTPUT_F32)
    tolerances.assert_close(kernel_gradients, gradients, tolerances.GRAD_F32)


def test_bfloat16_tokens_stay_near_float32():
    """Products of the kernel then round their operands to bfloat16; M and S stay in float32."""
    inputs, run = problem(**PLAIN)
    narrow = tuple(x.astype(jnp.bfloat16) if i in (2, 3, 4) else x for i, x in enumerate(inputs))
    wide = jax.tree.map(lambda x: x.astype(jnp.float32), narrow)
    expected, gradients = value_and_pullback(functools.partial(run, chunked_scan), wide)
    kernel = functools.partial(fused_chunk_scan, implementation="xla")
    actual, narrow_gradients = value_and_pullback(functools.partial(run, kernel), narrow)
    assert actual[2].dtype == jnp.bfloat16
    assert {leaf.dtype for leaf in jax.tree.leaves(actual[0])} == {jnp.dtype(jnp.float32)}
    tolerances.assert_close(actual, expected, tolerances.OUTPUT_BF16)
    tolerances.assert_close(narrow_gradients, gradients, tolerances.GRAD_BF16)


@pytest.mark.parametrize("name", ["xla", "mosaic_tpu"])
def test_carries_saved_in_bfloat16_change_the_gradients_of_gates_alone(name):
    """Where every carry is saved; the products of bfloat16 tokens round them to bfloat16 anyway."""
    inputs, run = problem(**PLAIN)
    narrow = tuple(x.astype(jnp.bfloat16) if i in (2, 3, 4) else x for i, x in enumerate(inputs))
    options = {"implementation": name, "interpret": name != "xla", "checkpoint_every": 1}

    def gradients(**saved):
        kernel = functools.partial(fused_chunk_scan, **options, **saved)
        return value_and_pullback(functools.partial(run, kernel), narrow)[1]

    (*rest, gates, _), (*exact_rest, exact_gates, _) = gradients(), gradients(saved_dtype=None)
    tolerances.assert_close(rest, exact_rest, 0.0)
    tolerances.assert_close(gates, exact_gates, tolerances.OUTPUT_BF16)
    with pytest.raises(AssertionError):
        tolerances.assert_close(gates, exact_gates, 0.0)


def test_float32_tokens_save_float32():
    inputs, run = problem(**PLAIN)
    kernel = functools.partial(fused_chunk_scan, implementation="xla", checkpoint_every=1)
    _, pull = jax.eval_shape(functools.partial(jax.vjp, functools.partial(run, kernel)), *inputs)
    assert {leaf.dtype for leaf in jax.tree.leaves(pull)} == {jnp.dtype(jnp.float32)}


@pytest.mark.parametrize("axis", ["data", "tensor"])
def test_two_devices_share_sequences_or_heads(axis):
    """In a process of its own, because this one has one device."""
    command = [sys.executable, "-m", "tests.titans_jax.memory.on_two_devices", axis]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
