"""Every wrong argument raises a ValueError that names it, its value and what would be right.

All calls are abstract (``jax.eval_shape``), where nothing can be compiled or computed: the error comes before.
"""

import re

import jax
import jax.numpy as jnp
import pytest
from flax import nnx

from tests.titans_jax.memory import cases
from tests.titans_jax.memory.cases import BATCH, HEADS, LENGTH, WIDTH
from titans_jax.config import RULE_OF_0_1, MemoryConfig
from titans_jax.memory import MLPNetwork, Rule, memory_scan
from titans_jax.memory.layer import NeuralMemory
from titans_jax.memory.state import MemoryState


def says(*words):
    """A pattern with these words in this order."""
    return ".*".join(re.escape(word) for word in words)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_heads": 0}, says("num_heads", "positive integer", "0")),
        ({"num_heads": 2.0}, says("num_heads", "positive integer", "2.0")),
        ({"network": "cnn"}, says("network", "'mlp', 'residual' or a function", "'cnn'")),
        ({"depth": 0}, says("depth", "1 to 4", "0")),
        ({"depth": 5}, says("depth", "1 to 4", "5")),
        ({"depth": 2.0}, says("depth", "1 to 4", "2.0")),
        ({"expansion": 0}, says("expansion", "positive integer", "0")),
        ({"expansion": 1.5}, says("expansion", "positive integer", "1.5")),
        ({"chunk": 0}, says("chunk", "positive integer", "0")),
        ({"chunk": -4}, says("chunk", "positive integer", "-4")),
        ({"chunk": 16.0}, says("chunk", "positive integer", "16.0")),
        ({"chunk": True}, says("chunk", "positive integer", "True")),
        ({"chunk": "64"}, says("chunk", "positive integer", "'64'")),
        ({"tile": 0}, says("tile", "positive integer or None", "0")),
        ({"gates": "both"}, says("gates", "one of ('token', 'chunk')", "'both'")),
        ({"conv_width": -1}, says("conv_width", "integer", "-1")),
        ({"read": "during"}, says("read", "after", "before", "'during'")),
        ({"step_scale": 0.0}, says("step_scale", "positive, finite number", "0.0")),
        ({"step_bias": float("-inf")}, says("step_bias", "finite number", "-inf")),
        ({"step_scale": float("nan")}, says("step_scale", "positive, finite number", "nan")),
        ({"execution": "parallel"}, says("execution", "chunked", "'parallel'")),
        (
            {"execution": "chunked", "network": cases.gated_mlp, **RULE_OF_0_1},
            says("'chunked'", "built-in", "associative_scan"),
        ),
    ],
)
def test_config(arguments, message):
    with pytest.raises(ValueError, match=message):
        MemoryConfig(**arguments)


def scan(network=None, rule=None, **changes):
    """`memory_scan` on abstract inputs with some of its arguments replaced."""
    case = cases.Case(masked=True, resets=True, carried=True)
    inputs, flags = cases.problem(case)
    state = MemoryState(inputs.weights, inputs.momentum, inputs.anchor, flags.position)
    arguments = {
        "state": state,
        "q": inputs.q,
        "k": inputs.k,
        "v": inputs.v,
        "gates": inputs.gates,
        "mask": flags.mask,
        "reset": flags.reset,
        "initial": inputs.initial,
    }
    settings = {"chunk": 4}
    for name, value in changes.items():
        target = arguments if name in arguments else settings
        target[name] = value(arguments[name]) if callable(value) else value
    return jax.eval_shape(
        lambda arrays: memory_scan(
            Rule(network or case.function, **(rule or {})), **arrays, **settings
        ),
        arguments,
    )


def test_the_unchanged_call_is_right():
    y, _ = scan()
    assert y.shape == (BATCH, LENGTH, HEADS, WIDTH)


def cut(axis, n=1):
    """Drops the last n entries of an axis."""
    return lambda x: jax.lax.slice_in_dim(x, 0, x.shape[axis] - n, axis=axis)


def in_state(field, change):
    return lambda state: state._replace(**{field: jax.tree.map(change, getattr(state, field))})


def in_gates(field, change):
    return lambda gates: gates._replace(**{field: change(getattr(gates, field))})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"chunk": 0}, says("chunk", "positive integer", "0")),
        ({"chunk": 2.0}, says("chunk", "positive integer", "2.0")),
        ({"tile": 0}, says("tile", "positive integer or None", "0")),
        ({"tile": 2.0}, says("tile", "positive integer or None", "2.0")),
        ({"rule": {"read": "during"}}, says("read", "'after', 'before'", "'during'")),
        ({"execution": "fast"}, says("execution", "chunked", "'fast'")),
        ({"q": lambda x: x[0]}, says("q must be [B, T, H, K]", "(12, 2, 3)")),
        ({"q": lambda x: x[:, :0]}, says("q must be [B, T, H, K] with T >= 1", "(2, 0, 2, 3)")),
        ({"k": cut(1)}, says("k must", "(2, 12, 2, 3)", "(2, 11, 2, 3)")),
        ({"v": cut(3)}, says("v must", "(2, 12, 2, 3)", "(2, 12, 2, 2)")),
        ({"gates": in_gates("theta", cut(1))}, says("gates.theta", "(2, 12, 2)", "(2, 11, 2)")),
        ({"gates": in_gates("log_eta", cut(2))}, says("gates.log_eta", "(2, 12, 2)", "(2, 12, 1)")),
        ({"gates": in_gates("log_keep", cut(0))}, says("gates.log_keep", "(2, 12, 2)", "(1, 12, 2)")),
        ({"mask": cut(1)}, says("mask", "bool [B, T] = (2, 12)", "(2, 11)")),
        ({"mask": lambda m: m.astype(jnp.float32)}, says("mask", "bool", "float32")),
        ({"reset": cut(0)}, says("reset", "bool [B, T] = (2, 12)", "(1, 12)")),
        ({"reset": lambda r: r.astype(jnp.int32)}, says("reset", "bool", "int32")),
        ({"initial": None}, says("reset needs initial", "None")),
        ({"initial": lambda i: jax.tree.map(cut(1), i)}, says("initial", "(2, 3, 6)", "(2, 2, 6)")),
        ({"rule": {"gain": jnp.ones((HEADS, 1, WIDTH))}}, says("gain", "residual", "mlp", "(2, 1, 3)")),
        ({"rule": {"base": (jnp.ones((HEADS, 3, 6)),)}}, says("rule.base", "(2, 3, 6)", "(2, 6, 3)")),
        ({"state": in_state("weights", cut(0))}, says("state.weights", "(2, 2)", "(1, 2, 3, 6)")),
        ({"state": in_state("weights", cut(3))}, says("state.weights", "(2, 2, 3, 6)", "(2, 2, 3, 5)")),
        ({"state": in_state("momentum", cut(1))}, says("state.momentum", "(2, 2)", "(2, 1, 3, 6)")),
        ({"state": in_state("momentum", cut(3))}, says("state.momentum", "(2, 2, 3, 6)", "(2, 2, 3, 5)")),
        ({"state": in_state("anchor", cut(2))}, says("state.anchor", "(2, 2, 3, 6)", "(2, 2, 2, 6)")),
        ({"state": in_state("position", cut(0))}, says("state.position", "[B] = (2,)", "(1,)")),
    ],
    ids=[
        "chunk-0", "chunk-float", "tile-0", "tile-float", "read", "execution", "q-rank", "q-empty",
        "k", "v", "theta", "log_eta", "log_keep", "mask-shape", "mask-dtype", "reset-shape", "reset-dtype",
        "initial-missing", "initial-shape", "gain-unwanted", "base-shape", "weights-batch", "weights-width",
        "momentum-heads", "momentum-width", "anchor-width", "position",
    ],
)  # fmt: skip
def test_memory_scan(changes, message):
    with pytest.raises(ValueError, match=message):
        scan(**changes)


def test_the_network_must_fit_the_state():
    with pytest.raises(ValueError, match=says("state.weights", "depth=3", "(2, 2, 3, 6)")):
        scan(MLPNetwork("mlp", 3, 2))
    with pytest.raises(ValueError, match=says("gain", "'residual'", "None")):
        scan(MLPNetwork("residual", 2, 2))
    with pytest.raises(ValueError, match=says("gain", "[H, 1, K] = (2, 1, 3)", "(2, 1, 2)")):
        scan(MLPNetwork("residual", 2, 2), {"gain": jnp.ones((HEADS, 1, WIDTH - 1))})
    with pytest.raises(ValueError, match=says("'chunked'", "built-in", "associative_scan")):
        scan(cases.gated_mlp, execution="chunked")


# The layer

CONFIG = MemoryConfig(num_heads=2, chunk=4)
FUNCTION = MemoryConfig(num_heads=2, network=cases.gated_mlp, **RULE_OF_0_1)


@pytest.mark.parametrize(
    ("dim", "config", "options", "message"),
    [
        (0, CONFIG, {}, says("dim", "positive integer", "0")),
        (8.0, CONFIG, {}, says("dim", "positive integer", "8.0")),
        (9, CONFIG, {}, says("num_heads", "divisor of dim = 9", "2")),
        (8, CONFIG, {"init_network": lambda key: key}, says("init_network", "None for a built-in")),
        (8, FUNCTION, {}, says("init_network", "function", "None")),
    ],
    ids=["dim-0", "dim-float", "heads", "init-unwanted", "init-missing"],
)  # fmt: skip
def test_making_a_layer(dim, config, options, message):
    with pytest.raises(ValueError, match=message):
        nnx.eval_shape(lambda: NeuralMemory(dim, config, **options, rngs=nnx.Rngs(0)))


def call(x=(2, 6, 8), state_batch=None, **flags):
    """The layer on abstract arrays of these shapes."""

    def run(x, flags):
        module = NeuralMemory(8, CONFIG, rngs=nnx.Rngs(0))
        return module(x, None if state_batch is None else module.init_state(state_batch), **flags)

    return jax.eval_shape(run, jnp.zeros(x, jnp.float32), flags)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"x": (6, 8)}, says("x must be [B, T, D]", "D = 8", "(6, 8)")),
        ({"x": (2, 6, 7)}, says("x must be [B, T, D]", "D = 8", "(2, 6, 7)")),
        ({"x": (2, 0, 8)}, says("x must be [B, T, D]", "T >= 1", "(2, 0, 8)")),
        ({"x": (0, 3, 8)}, says("x must be [B, T, D]", "B >= 1", "(0, 3, 8)")),
        ({"state_batch": 3}, says("state", "batch", "2", "3")),
        ({"mask": jnp.ones((2, 5), bool)}, says("mask", "bool [B, T] = (2, 6)", "(2, 5)")),
        ({"mask": jnp.ones((2, 6), jnp.int32)}, says("mask", "bool [B, T] = (2, 6)", "int32")),
        ({"reset": jnp.ones((1, 6), bool)}, says("reset", "bool [B, T] = (2, 6)", "(1, 6)")),
        ({"reset": jnp.ones((2, 6))}, says("reset", "bool [B, T] = (2, 6)", "float64")),
        ({"prefix": jnp.ones((3, 7))}, says("prefix", "[P, D] with D = 8", "(3, 7)")),
        ({"prefix": jnp.ones((2, 3, 8))}, says("prefix", "[P, D] with D = 8", "(2, 3, 8)")),
    ],
    ids=["rank", "width", "empty", "no-batch", "batch", "mask", "mask-dtype", "reset", "reset-dtype", "prefix",
         "prefix-rank"],
)  # fmt: skip
def test_calling_a_layer(arguments, message):
    with pytest.raises(ValueError, match=message):
        call(**arguments)


def test_the_unchanged_layer_call_is_right():
    y, _ = call(state_batch=2, mask=jnp.ones((2, 6), bool))
    assert y.shape == (2, 6, 8)
