"""What the memory reports of itself: against numpy, in which every state is formed, and without effect on the rest."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from tests import tolerances
from tests.titans_jax.memory import oracle
from tests.titans_jax.memory.cases import (
    BATCH,
    HEADS,
    LENGTH,
    Case,
    gated_mlp,
    problem,
)
from titans_jax.config import RULE_OF_0_1, MemoryConfig
from titans_jax.memory import MemoryState
from titans_jax.memory.diagnostics import Diagnostics, memory_diagnostics
from titans_jax.memory.layer import NeuralMemory
from titans_jax.memory.rule import Rule

DIM = 8


# Against numpy


def norm(matrices):
    return np.sqrt(sum((matrix**2).sum() for matrix in matrices))


def in_numpy(case, inputs, flags):
    """The diagnostics from one token's states at a time, each formed in full."""
    inputs = jax.tree.map(np.asarray, inputs)
    nothing = np.zeros((BATCH, LENGTH, HEADS))
    gates = inputs.gates
    expected = Diagnostics(*(np.zeros((BATCH, LENGTH, HEADS)) for _ in Diagnostics._fields))
    expected.alpha[:] = nothing if gates.log_keep is None else 1 - np.exp(gates.log_keep)
    expected.eta[:] = nothing if gates.log_eta is None else np.exp(gates.log_eta)
    expected.theta[:] = gates.theta
    for b in range(BATCH):
        for h in range(HEADS):
            m, s, anchor = (
                [x[b, h] for x in tree] for tree in (inputs.weights, inputs.momentum, inputs.anchor)
            )
            position = int(flags.position[b])
            for t in range(LENGTH):
                at = b, t, h
                if flags.reset is not None and flags.reset[b, t]:
                    m, s = ([x[h] for x in tree] for tree in inputs.initial)
                    anchor = m
                if position == 0:
                    anchor = m
                k, v = inputs.k[b, t, h], inputs.v[b, t, h]
                now = anchor if case.anchor == "chunk" else [*anchor[:-1], m[-1]]
                u = oracle.loss_gradient(anchor, now, k, v)
                if case.bound != "none" and case.depth > 1:
                    u = [x / max(1.0, oracle.curvature(anchor, k, v, case.bound)) for x in u]
                expected.loss[at] = ((oracle.read_memory(now, k) - v) ** 2).sum()
                expected.gradient_norm[at] = norm(u)
                if flags.mask is None or flags.mask[b, t]:
                    step = [-expected.theta[at] * layer for layer in u]
                    if case.momentum:
                        step = s = [expected.eta[at] * x + d for x, d in zip(s, step, strict=True)]
                    keep = 1 - expected.alpha[at]
                    m = [keep * x + d for x, d in zip(m, step, strict=True)]
                expected.weights_norm[at], expected.momentum_norm[at] = norm(m), norm(s)
                position = (position + 1) % case.chunk
    return expected


CASES = [
    Case(depth=1, chunk=5, momentum=False),
    Case(depth=1, chunk=4, forget=False, masked=True, bound="gradient"),
    Case(depth=2, chunk=4, bound="gradient", masked=True, resets=True, carried=True),
    Case(depth=2, chunk=5, carried=True),
    Case(depth=2, chunk=5, anchor="token", bound="features", masked=True, carried=True),
]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_the_diagnostics_equal_numpy(case):
    inputs, flags = problem(case)
    if case.bound != "none" and case.depth > 1:  # so that the bound does something
        inputs = jax.tree.map(lambda x: 3 * x, inputs)._replace(gates=inputs.gates, k=inputs.k)
    fresh = (flags.position == 0)[:, None, None, None]
    anchor = jax.tree.map(lambda m, a: jnp.where(fresh, m, a), inputs.weights, inputs.anchor)
    state = MemoryState(inputs.weights, inputs.momentum, anchor, flags.position)
    function = functools.partial(
        memory_diagnostics,
        Rule(case.function, anchor=case.anchor, bound=case.bound),
        chunk=case.chunk,
    )
    options = {"mask": flags.mask, "reset": flags.reset, "initial": inputs.initial}
    compiled = jax.jit(function)
    actual = compiled(state, inputs.k, inputs.v, inputs.gates, **options)
    tolerances.assert_close(actual, in_numpy(case, inputs, flags), tolerances.OUTPUT_F64)


# In the layer

TOKEN = MemoryConfig(num_heads=HEADS, chunk=4, conv_width=3, step_scale=1.0)
LINEAR = MemoryConfig(num_heads=HEADS, chunk=1, depth=1, momentum=False, forget=False)
RESIDUAL = MemoryConfig(num_heads=HEADS, chunk=5, tile=2, network="residual", gates="chunk")
FUNCTION = MemoryConfig(num_heads=HEADS, chunk=4, network=gated_mlp, **RULE_OF_0_1)
LAYERS = pytest.mark.parametrize(
    "config", [TOKEN, LINEAR, RESIDUAL, FUNCTION], ids=["token", "linear", "residual", "function"]
)


def gated_weights(key):
    shapes = {"gate": (DIM // HEADS, 6), "up": (DIM // HEADS, 6), "down": (6, DIM // HEADS)}
    keys = jax.random.split(key, len(shapes))
    return {
        name: jax.random.normal(k, shape, jnp.float64) / shape[0] ** 0.5
        for k, (name, shape) in zip(keys, shapes.items(), strict=True)
    }


@functools.cache
def module(config):
    init = {"init_network": gated_weights} if callable(config.network) else {}
    graph, parameters = nnx.split(
        NeuralMemory(DIM, config, dtype=jnp.float64, rngs=nnx.Rngs(0), **init)
    )
    rng = np.random.default_rng(0)
    noisy = jax.tree.map(lambda p: p + 0.3 * rng.normal(size=p.shape), parameters)
    return nnx.merge(graph, noisy)


@functools.cache
def compiled(config, freeze=False):
    """Compiled ``(x, state, mask=, reset=, prefix=) -> (outputs, state, diagnostics)``."""
    layer = module(config)

    def run(x, state=None, **flags):
        found = layer.diagnostics(x, state, freeze=freeze, **flags)
        return *layer(x, state, freeze=freeze, **flags), found

    return jax.jit(run)


def sequence(seed=0):
    return jnp.asarray(np.random.default_rng(seed).normal(size=(BATCH, LENGTH, DIM)))


@LAYERS
def test_the_last_norms_are_those_of_the_state(config):
    x = sequence()
    options = {"mask": jnp.ones((BATCH, LENGTH), bool).at[1, 5:7].set(False)}
    if config is TOKEN:
        options["reset"] = jnp.zeros((BATCH, LENGTH), bool).at[0, 8].set(True)
    _, state, diagnostics = compiled(config)(x, **options)
    for name, values in diagnostics._asdict().items():
        assert values.shape == (BATCH, LENGTH, HEADS), name
        assert jnp.all(jnp.isfinite(values)), name
        constant = {
            "alpha": config.forget,
            "eta": config.momentum,
            "momentum_norm": config.momentum,
        }
        assert jnp.any(values != 0) == constant.get(name, True), name
    last = state.memory.weights, state.memory.momentum
    expected = [
        jnp.sqrt(sum(jnp.sum(leaf**2, (2, 3)) for leaf in jax.tree.leaves(m))) for m in last
    ]
    actual = [diagnostics.weights_norm[:, -1], diagnostics.momentum_norm[:, -1]]
    tolerances.assert_close(actual, expected, tolerances.STATE_F64)


@LAYERS
def test_a_split_within_a_chunk_reports_what_the_whole_does(config):
    x = sequence()
    whole = compiled(config)(x)[-1]
    _, state, first = compiled(config)(x[:, :7])
    _, _, second = compiled(config)(x[:, 7:], state)
    joined = jax.tree.map(lambda *parts: jnp.concatenate(parts, axis=1), first, second)
    tolerances.assert_close(joined, whole, tolerances.OUTPUT_F64)


def test_a_frozen_memory_is_surprised_but_does_not_move():
    x, config = sequence(), dataclasses.replace(TOKEN, anchor="chunk")
    _, state, _ = compiled(config)(x[:, :6])
    _, _, frozen = compiled(config, freeze=True)(x[:, 6:], state)
    _, _, learning = compiled(config)(x[:, 6:], state)
    first_chunk = slice(0, 2)  # its anchor is older than the freeze
    tolerances.assert_close(
        jax.tree.map(lambda a: a[:, first_chunk], frozen[:5]),
        jax.tree.map(lambda a: a[:, first_chunk], learning[:5]),
        1e-12,
    )
    for values in (frozen.weights_norm, frozen.momentum_norm):
        np.testing.assert_array_equal(values, jnp.broadcast_to(values[:, :1], values.shape))
    assert jnp.all(jnp.abs(frozen.loss[:, 2:] - learning.loss[:, 2:]) > 1e-9)
