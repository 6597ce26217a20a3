"""The decoding step against the oracle: every network, gate option, mask and reset, across a chunk's border."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.tolerances import GRAD_F64, OUTPUT_F64, assert_close
from titans_jax.memory.api import memory_scan
from titans_jax.memory.dual import Carry
from titans_jax.memory.gates import Gates
from titans_jax.memory.networks import MLPNetwork
from titans_jax.memory.rule import Rule
from titans_jax.memory.state import fresh_state

BATCH, HEADS, DIM, CHUNK, TOKENS = 2, 2, 4, 3, 5


def problem(network, momentum=True, forget=True):
    rng = np.random.default_rng(0)

    def normal(*shape):
        return jnp.asarray(rng.standard_normal(shape))

    weights = tuple(normal(HEADS, *shape) * 0.5 for shape in network.shapes(DIM))
    start = Carry(weights, tuple(0.1 * normal(*w.shape) for w in weights))
    values = rng.uniform(0.05, 0.5, (3, BATCH, TOKENS, HEADS))
    gates = Gates.from_values(
        jnp.asarray(values[0]) if forget else None,
        jnp.asarray(values[1]) if momentum else None,
        jnp.asarray(values[2]),
    )
    tokens = tuple(normal(BATCH, TOKENS, HEADS, DIM) for _ in range(3))
    gain = jnp.abs(normal(HEADS, 1, DIM)) if network.kind == "residual" else None
    return start, tokens, gates, gain


def run(execution, network, start, tokens, gates, gain, mask=None, reset=None, **rule):
    """Token by token through `memory_scan`, so that both executions carry the same kind of state."""
    rule = Rule(network, gain=gain, **({"bound": "gradient"} | rule))
    state, outputs = fresh_state(start.weights, BATCH, start.momentum), []
    for t in range(TOKENS):
        now = slice(t, t + 1)
        y, state = memory_scan(
            rule,
            state,
            *(x[:, now] for x in tokens),
            Gates(*(None if g is None else g[:, now] for g in gates)),
            chunk=CHUNK,
            mask=None if mask is None else mask[:, now],
            reset=None if reset is None else reset[:, now],
            initial=start if reset is not None else None,
            execution=execution,
        )
        outputs.append(y)
    return jnp.concatenate(outputs, axis=1), state


@pytest.mark.parametrize(
    "network", [MLPNetwork("mlp", 1), MLPNetwork("mlp", 2), MLPNetwork("residual", 3)]
)
@pytest.mark.parametrize("read", ["after", "before"])
def test_decoding_is_the_oracle(network, read):
    case = problem(network)
    assert_close(
        run("token", network, *case, read=read),
        run("sequential", network, *case, read=read),
        OUTPUT_F64,
    )


@pytest.mark.parametrize(
    "network", [MLPNetwork("mlp", 1), MLPNetwork("mlp", 3), MLPNetwork("residual", 2)]
)
def test_decoding_with_the_last_layer_exact(network):
    case = problem(network)
    base = jax.tree.map(lambda w: 0.5 * w[::-1], case[0].weights)
    rule = {"anchor": "token", "bound": "features", "lower_step": 0.3, "base": base}
    assert_close(
        run("token", network, *case, **rule), run("sequential", network, *case, **rule), OUTPUT_F64
    )


@pytest.mark.parametrize(("momentum", "forget"), [(False, True), (True, False), (False, False)])
def test_without_momentum_or_forgetting(momentum, forget):
    network = MLPNetwork("mlp", 2)
    case = problem(network, momentum, forget)
    assert_close(run("token", network, *case), run("sequential", network, *case), OUTPUT_F64)


def test_masked_tokens_and_documents():
    network = MLPNetwork("mlp", 2)
    case = problem(network)
    mask = jnp.ones((BATCH, TOKENS), bool).at[0, 1].set(False).at[1, 2].set(False)
    reset = jnp.zeros((BATCH, TOKENS), bool).at[1, CHUNK].set(True)
    options = {"mask": mask, "reset": reset}
    actual = run("token", network, *case, **options)
    assert_close(actual, run("sequential", network, *case, **options), OUTPUT_F64)
    plain, _ = run("token", network, *case)
    assert jnp.max(jnp.abs(actual[0] - plain)) > 1e-3


def test_gradients_through_decoding():
    network = MLPNetwork("mlp", 2)
    start, tokens, gates, gain = problem(network)

    def loss(execution):
        def value(start, tokens, gates):
            y, state = run(execution, network, start, tokens, gates, gain)
            return jnp.sum(jnp.sin(y)) + sum(jnp.sum(w**2) for w in state.weights)

        return jax.jit(jax.grad(value, argnums=(0, 1, 2)))(start, tokens, gates)

    assert_close(loss("token"), loss("sequential"), GRAD_F64)


def test_one_token_at_a_time_is_said():
    network = MLPNetwork("mlp", 1)
    start, tokens, gates, _ = problem(network)
    state = fresh_state(start.weights, BATCH)
    with pytest.raises(ValueError, match="execution 'token' takes one token at a time, got 5"):
        memory_scan(Rule(network), state, *tokens, gates, chunk=CHUNK, execution="token")
