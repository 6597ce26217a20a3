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
from titans_jax.memory import Carry, Gates, MLPNetwork, Rule
from titans_jax.memory.dual import Tile
from titans_jax.memory.executions.tiled import kernel_step, saved_dtype, scan_step
from titans_jax.tiles.scan import scan_tiles

REPOSITORY = Path(__file__).parents[3]
CHUNKS, BATCH, HEADS, TILE, WIDTH = 3, 2, 2, 8, 8

PLAIN = {"network": MLPNetwork("mlp", 2, 2)}
KINDS = {
    "depth 1": {"network": MLPNetwork("mlp", 1)},
    "depth 2": PLAIN,
    "residual of depth 3, two tiles": {"network": MLPNetwork("residual", 3, 1), "tiles": 2},
    "mask, resets, unfinished chunk": PLAIN | {"flags": True},
    "no momentum, no forgetting, read before": PLAIN
    | {"momentum": False, "forget": False, "read": "before"},
    "last layer exact, mask, resets": PLAIN
    | {"flags": True, "rule": {"anchor": "token", "bound": "features", "lower_step": 0.3}},
}


def problem(network, tiles=1, flags=False, momentum=True, forget=True, read="after", rule=None):
    """Arguments of an execution: those to differentiate, and a function of them and the execution."""
    rng = np.random.default_rng(0)
    count = CHUNKS * tiles

    def array(*shape):
        return jnp.asarray(rng.normal(size=shape), jnp.float32)

    def decay(wanted):  # already summed within each tile
        return -jnp.cumsum(jnp.abs(array(count, BATCH, TILE, HEADS)), axis=2) if wanted else None

    shapes = network.shapes(WIDTH)
    weights, momenta = (tuple(0.3 * array(BATCH, HEADS, *s) for s in shapes) for _ in range(2))
    q, k, v = (0.3 * array(count, BATCH, TILE, HEADS, WIDTH) for _ in range(3))
    theta = 0.1 * jnp.abs(array(count, BATCH, TILE, HEADS))
    gates = Gates(decay(forget), decay(momentum), theta)
    start = tuple(0.3 * array(HEADS, *s) for s in shapes)
    gain = array(HEADS, 1, WIDTH) if network.kind == "residual" else None
    inputs = (gain, Carry(weights, momenta), q, k, v, gates, start)

    def by_tile(flags):  # [N, B] -> [N, B, 1, H]
        flags = jnp.asarray(flags, jnp.float32)[:, :, None, None]
        return jnp.broadcast_to(flags, (count, BATCH, 1, HEADS))

    moves = reset = settles = None
    if tiles > 1:
        settles = by_tile([[(n + 1) % tiles == 0] * BATCH for n in range(count)])
    if flags:
        moves = jnp.asarray(rng.random((count, BATCH, TILE, HEADS)) < 0.7, jnp.float32)
        reset = by_tile([[False, True], [True, False], [False, False]])
        settles = by_tile([[True, True], [True, False], [False, False]])

    def run(execution, gain, carry, q, k, v, gates, start):
        options = {"bound": "none" if network.linear else "gradient", "read": read} | (rule or {})
        based = start if "anchor" in options else None
        consts = (
            Rule(network, gain=gain, base=based, **options),
            Carry(start, jax.tree.map(jnp.zeros_like, start)) if flags else None,
        )
        tokens = Tile(q, k, v, gates, moves, reset, settles)
        state = (carry, None if settles is None else carry.weights)
        (carry, anchor), y = execution(consts, state, tokens)
        return carry, anchor, y

    return inputs, run


def by_scan(consts, state, tokens):
    return scan_tiles(scan_step, consts, state, tokens, execution="chunked")


def by_kernel(consts, state, tokens, **options):
    options = {"saved_dtype": saved_dtype(tokens.q.dtype)} | options
    return scan_tiles(kernel_step, consts, state, tokens, execution="fused", **options)


def value_and_pullback(run, inputs):
    results, pull = jax.vjp(run, *inputs)
    rng = np.random.default_rng(1)
    cotangent = jax.tree.map(lambda a: jnp.asarray(rng.normal(size=a.shape), a.dtype), results)
    return results, pull(cotangent)


@pytest.mark.parametrize("kind", KINDS)
def test_the_kernel_equals_the_scan_over_chunks(kind):
    inputs, run = problem(**KINDS[kind])
    kernel = functools.partial(by_kernel, implementation="mosaic_tpu", interpret=True)
    expected = jax.jit(functools.partial(value_and_pullback, functools.partial(run, by_scan)))
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
    expected, gradients = value_and_pullback(functools.partial(run, by_scan), wide)
    kernel = functools.partial(by_kernel, implementation="xla")
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
        kernel = functools.partial(by_kernel, **options, **saved)
        return value_and_pullback(functools.partial(run, kernel), narrow)[1]

    (*rest, gates, _), (*exact_rest, exact_gates, _) = gradients(), gradients(saved_dtype=None)
    tolerances.assert_close(rest, exact_rest, 0.0)
    tolerances.assert_close(gates, exact_gates, tolerances.OUTPUT_BF16)
    with pytest.raises(AssertionError):
        tolerances.assert_close(gates, exact_gates, 0.0)


def test_float32_tokens_save_float32():
    inputs, run = problem(**PLAIN)
    kernel = functools.partial(by_kernel, implementation="xla", checkpoint_every=1)
    _, pull = jax.eval_shape(functools.partial(jax.vjp, functools.partial(run, kernel)), *inputs)
    assert {leaf.dtype for leaf in jax.tree.leaves(pull)} == {jnp.dtype(jnp.float32)}


@pytest.mark.parametrize("axis", ["data", "tensor"])
def test_two_devices_share_sequences_or_heads(axis):
    """In a process of its own, because this one has one device."""
    command = [sys.executable, "-m", "tests.titans_jax.memory.on_two_devices", axis]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
