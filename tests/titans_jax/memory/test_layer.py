"""The memory as a layer: against numpy, and its laws (any split, documents, padding, causality)."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from tests import tolerances
from tests.titans_jax.memory import oracle
from tests.titans_jax.memory.cases import Case, Inputs, gated_mlp
from titans_jax.config import RULE_OF_0_1, MemoryConfig
from titans_jax.memory import Gates
from titans_jax.memory.layer import HeadProjection, NeuralMemory

DIM, HEADS, BATCH, LENGTH, CHUNK = 8, 2, 2, 12, 4
BASE = MemoryConfig(num_heads=HEADS, chunk=CHUNK, conv_width=3, step_scale=1.0)
TOKEN = BASE
CHUNKWISE = MemoryConfig(num_heads=HEADS, chunk=CHUNK, conv_width=3, gates="chunk", read="before")
RESIDUAL = MemoryConfig(num_heads=HEADS, chunk=5, tile=2, network="residual", conv_width=4)


@functools.cache
def layer(config, seed=0, **options):
    """A layer in float64 whose parameters are all random, gains and biases too: (graph, parameters)."""
    module = NeuralMemory(DIM, config, dtype=jnp.float64, rngs=nnx.Rngs(seed), **options)
    graph, parameters = nnx.split(module)
    rng = np.random.default_rng(seed)
    return graph, jax.tree.map(lambda p: p + 0.3 * rng.normal(size=p.shape), parameters)


@functools.cache
def compiled(graph):
    """Compiled ``(parameters, x, state, mask=, reset=, prefix=) -> (y, state)``."""

    def run(parameters, x, state=None, *, mask=None, reset=None, prefix=None):
        return nnx.merge(graph, parameters)(x, state, mask=mask, reset=reset, prefix=prefix)

    return jax.jit(run)


def run(config, *args, **kwargs):
    graph, parameters = layer(config)
    return compiled(graph)(parameters, *args, **kwargs)


@functools.cache
def start(graph):
    """Compiled ``(parameters, prefix) -> state`` before a sequence."""
    return jax.jit(
        lambda parameters, prefix: nnx.merge(graph, parameters).init_state(BATCH, prefix)
    )


def fresh(config, prefix=None):
    graph, parameters = layer(config)
    return start(graph)(parameters, prefix)


def inputs(seed=0, length=LENGTH):
    return jnp.asarray(np.random.default_rng(seed).normal(size=(BATCH, length, DIM)))


def persistent(count=3, seed=5):
    return jnp.asarray(np.random.default_rng(seed).normal(size=(count, DIM)))


# Against numpy


def in_numpy(module, x):
    """The whole layer from its parameters: projections, convolutions, gates, memory, gated output."""
    x, config = np.asarray(x), module.config

    def sigmoid(z):
        return 1 / (1 + np.exp(-z))

    def silu(z):
        return z * sigmoid(z)

    def heads(projection, unit):
        z = x @ np.asarray(projection.linear.kernel[...])
        if projection.conv is not None:
            kernel = np.asarray(projection.conv.kernel[...])
            mixed = np.zeros_like(z)
            for t in range(LENGTH):
                for lag in range(min(len(kernel), t + 1)):
                    mixed[:, t] += kernel[lag] * z[:, t - lag]
            z = mixed
        z = silu(z).reshape(BATCH, LENGTH, HEADS, DIM // HEADS)
        return z / np.sqrt((z**2).sum(-1, keepdims=True) + 1e-6) if unit else z

    gate_input = x
    if config.gates == "chunk":
        gate_input = np.zeros_like(x)
        for start in range(config.chunk, LENGTH, config.chunk):
            mean = x[:, start - config.chunk : start].mean(1, keepdims=True)
            gate_input[:, start : start + config.chunk] = mean
    logits = np.einsum("btd,dgh->gbth", gate_input, np.asarray(module.gate_kernel[...]))
    alpha, eta, theta = sigmoid(logits + np.asarray(module.gate_bias[...])[:, None, None])
    scale = config.step_scale / (config.chunk if config.anchor == "chunk" else 1)
    theta = scale * (1 - eta) * theta
    learned = tuple(
        np.broadcast_to(np.asarray(m[...]), (BATCH, *m.shape)) for m in module.initial_weights
    )
    zeros = tuple(np.zeros_like(m) for m in learned)
    y, state = oracle.memory(
        Inputs(
            *(
                heads(p, unit)
                for p, unit in ((module.query, 1), (module.key, 1), (module.value, 0))
            ),
            Gates(np.log(1 - alpha), np.log(eta), theta),
            learned,
            zeros,
            learned,
            None,
            None,
            tuple(m[0] for m in learned) if config.forget_to == "start" else None,
        ),
        np.zeros(BATCH, int),
        np.ones((BATCH, LENGTH), bool),
        np.zeros((BATCH, LENGTH), bool),
        Case(
            chunk=config.chunk,
            read=config.read,
            bound=config.bound,
            anchor=config.anchor,
            lower_step=config.lower_step,
        ),
    )
    y = y / np.sqrt((y**2).mean(-1, keepdims=True) + 1e-6) * np.asarray(module.norm.scale[...])
    y = y.reshape(x.shape)
    if module.output_gate is not None:
        y = y * silu(x @ np.asarray(module.output_gate.kernel[...]))
    return y @ np.asarray(module.output.kernel[...]), state


BARE = MemoryConfig(
    num_heads=HEADS, chunk=5, depth=1, conv_width=0, output_gate=False, read="before"
)


EXACT = MemoryConfig(
    num_heads=HEADS,
    chunk=4,
    conv_width=3,
    anchor="token",
    bound="features",
    lower_step=0.3,
    step_scale=1.0,
    step_bias=-1.0,
    forget_to="start",
    forget_bias=-2.0,
    weights_start="features",
)


@pytest.mark.parametrize(
    "config", [TOKEN, CHUNKWISE, BARE, EXACT], ids=["token", "chunk", "bare", "exact"]
)
def test_the_layer_equals_numpy(config):
    expected, (weights, momentum, anchor) = in_numpy(nnx.merge(*layer(config)), inputs())
    y, state = run(config, inputs())
    tolerances.assert_close(y, expected, tolerances.OUTPUT_F64)
    tolerances.assert_close(state.memory[:3], (weights, momentum, anchor), tolerances.STATE_F64)


# Gradients of parameters


@pytest.mark.parametrize("network", ["mlp", "residual"])
def test_gradients_of_all_parameters_are_those_token_by_token(network):
    """Every parameter, the input and the persistent tokens, through documents and the final state."""
    x, prefix = inputs(), persistent()
    reset = jnp.zeros((BATCH, LENGTH), bool).at[0, 4].set(True).at[1, 8].set(True)
    mask = jnp.ones((BATCH, LENGTH), bool).at[1, 10:].set(False)

    def gradients(execution):
        config = MemoryConfig(
            num_heads=HEADS, chunk=CHUNK, conv_width=3, network=network, execution=execution
        )
        graph, parameters = layer(config)

        def loss(parameters, x, prefix):
            y, state = nnx.merge(graph, parameters)(x, mask=mask, reset=reset, prefix=prefix)
            return sum(
                jnp.sum(jnp.sin(3 * leaf)) for leaf in (y, *jax.tree.leaves(state.memory[:2]))
            )

        step = jax.jit(jax.value_and_grad(loss, (0, 1, 2)))
        value, (parameters, x_, prefix_) = step(parameters, x, prefix)
        return value, (dict(nnx.to_flat_state(parameters)), x_, prefix_)

    value, expected = gradients("sequential")
    for execution in ("chunked", "associative_scan"):
        actual_value, actual = gradients(execution)
        tolerances.assert_close(actual_value, value, tolerances.OUTPUT_F64)
        tolerances.assert_close(
            jax.tree.leaves(actual), jax.tree.leaves(expected), tolerances.GRAD_F64
        )
    assert all(jnp.any(leaf != 0) for leaf in jax.tree.leaves(expected))


# Streaming

STREAMED = pytest.mark.parametrize(
    "config", [TOKEN, CHUNKWISE, RESIDUAL], ids=["token", "chunk", "residual"]
)


@STREAMED
def test_a_split_anywhere_equals_the_whole(config):
    """Two calls, the second within a chunk or not, within the reach of the convolution or not."""
    x, prefix = inputs(), persistent()
    y, state = run(config, x, prefix=prefix)
    for cut in (1, 4, 7):
        first, middle = run(config, x[:, :cut], fresh(config, prefix=prefix))
        second, end = run(config, x[:, cut:], middle)
        tolerances.assert_close(jnp.concatenate([first, second], axis=1), y, tolerances.OUTPUT_F64)
        tolerances.assert_close(end, state, tolerances.STATE_F64)
        if cut == 7:  # a state is sliced by batch: each sequence goes on by itself
            alone, _ = run(config, x[1:, cut:], jax.tree.map(lambda leaf: leaf[1:], middle))
            tolerances.assert_close(alone, second[1:], tolerances.OUTPUT_F64)


@STREAMED
def test_decoding_equals_training(config):
    """Token after token with one compiled step against the whole sequence at once."""
    x = inputs(seed=1)
    y, state = run(config, x)
    reads, stream = [], fresh(config)
    for t in range(LENGTH):
        read, stream = run(config, x[:, t : t + 1], stream)
        reads.append(read)
    tolerances.assert_close(jnp.concatenate(reads, axis=1), y, tolerances.OUTPUT_F64)
    tolerances.assert_close(stream, state, tolerances.STATE_F64)


@STREAMED
@pytest.mark.parametrize("changed_at", [0, 3, 4, 7, 11])
def test_causality_is_exact(config, changed_at):
    """A changed token leaves every earlier output bit for bit, and changes its own."""
    x = inputs()
    y, _ = run(config, x)
    other, _ = run(config, x.at[:, changed_at].add(1.0))
    np.testing.assert_array_equal(y[:, :changed_at], other[:, :changed_at])
    assert jnp.all(jnp.any(y[:, changed_at] != other[:, changed_at], axis=-1))


@STREAMED
def test_sequences_of_a_batch_do_not_touch(config):
    x = inputs()
    y, _ = run(config, x)
    other, _ = run(config, x.at[1].multiply(-1.0))
    np.testing.assert_array_equal(y[0], other[0])
    assert jnp.any(y[1] != other[1])


# Documents, padding, persistent tokens


@STREAMED
def test_documents_equal_separate_sequences(config):
    """Packed documents, the second at a chunk's start, each from the memory of the prefix."""
    x, prefix, cut = inputs(), persistent(), config.chunk
    reset = jnp.zeros((BATCH, LENGTH), bool).at[:, cut].set(True)
    y, state = run(config, x, reset=reset, prefix=prefix)
    first, _ = run(config, x[:, :cut], prefix=prefix)
    second, end = run(config, x[:, cut:], prefix=prefix)
    tolerances.assert_close(jnp.concatenate([first, second], 1), y, tolerances.OUTPUT_F64)
    tolerances.assert_close(state, end, tolerances.STATE_F64)

    # The same when the call begins within a chunk, with the state of another.
    within = cut - 2
    _, middle = run(config, x[:, :within], fresh(config, prefix=prefix))
    rest, rest_state = run(config, x[:, within:], middle, reset=reset[:, within:], prefix=prefix)
    tolerances.assert_close(rest, y[:, within:], tolerances.OUTPUT_F64)
    tolerances.assert_close(rest_state, state, tolerances.STATE_F64)


@STREAMED
def test_padding_at_the_end_changes_nothing(config):
    """What is in it does not matter; outputs before it, M and S are those of the shorter sequence."""
    x, real = inputs(), 7
    mask = jnp.broadcast_to(jnp.arange(LENGTH) < real, (BATCH, LENGTH))
    y, state = run(config, x, mask=mask)
    other, other_state = run(config, x.at[:, real:].set(9.0), mask=mask)
    expected, short = run(config, x[:, :real])
    np.testing.assert_array_equal(y[:, :real], other[:, :real])
    jax.tree.map(np.testing.assert_array_equal, state, other_state)
    tolerances.assert_close(y[:, :real], expected, tolerances.OUTPUT_F64)
    for name in ("weights", "momentum"):
        tolerances.assert_close(
            getattr(state.memory, name), getattr(short.memory, name), tolerances.STATE_F64
        )


@STREAMED
@pytest.mark.parametrize("cut", [5, 7])
def test_a_split_of_a_padded_sequence_equals_the_whole(config, cut):
    """Padding keeps its place: before the cut, after it, and within the convolution's reach of it."""
    x = inputs()
    mask = (
        jnp.ones((BATCH, LENGTH), bool).at[0, 3:5].set(False).at[1, jnp.array([0, 6, 8])].set(False)
    )
    y, state = run(config, x, mask=mask)
    first, middle = run(config, x[:, :cut], fresh(config), mask=mask[:, :cut])
    second, end = run(config, x[:, cut:], middle, mask=mask[:, cut:])
    tolerances.assert_close(jnp.concatenate([first, second], axis=1), y, tolerances.OUTPUT_F64)
    tolerances.assert_close(end, state, tolerances.STATE_F64)


def test_a_mask_of_ones_is_no_mask():
    y, state = run(TOKEN, inputs())
    masked = run(TOKEN, inputs(), mask=jnp.ones((BATCH, LENGTH), bool))
    tolerances.assert_close(masked, (y, state), tolerances.OUTPUT_F64)


@STREAMED
def test_persistent_tokens_are_written_first(config):
    """As chunks of their own: M and S are what a sequence of them leaves, and nothing else is."""
    prefix = persistent()
    written, after = run(config, prefix[None])
    state = fresh(config, prefix=prefix)
    for b in range(BATCH):
        at = jax.tree.map(lambda leaf, b=b: leaf[b : b + 1], state)
        tolerances.assert_close(at.memory.weights, after.memory.weights, tolerances.STATE_F64)
        tolerances.assert_close(at.memory.momentum, after.memory.momentum, tolerances.STATE_F64)
        tolerances.assert_close(at.memory.anchor, after.memory.weights, tolerances.STATE_F64)
    np.testing.assert_array_equal(state.memory.position, 0)
    assert not any(jnp.any(leaf) for leaf in jax.tree.leaves(state[1:]))
    outputs = nnx.merge(*layer(config)).prefix_outputs(prefix)
    tolerances.assert_close(outputs, written[0], tolerances.OUTPUT_F64)


def test_no_persistent_tokens_are_the_learned_start():
    module = nnx.merge(*layer(TOKEN))
    for prefix in (None, persistent(0)):
        state = module.init_state(BATCH, prefix)
        for m, learned in zip(state.memory.weights, module.initial_weights, strict=True):
            np.testing.assert_array_equal(m, np.broadcast_to(learned[...], m.shape))
        assert not any(jnp.any(s) for s in state.memory.momentum)


# Reading, options, precision


def test_reading_without_writing():
    """M*(q) at given weights, and what the layer itself reads before its first write."""
    module = nnx.merge(*layer(TOKEN))
    state = module.init_state(BATCH)
    q = jnp.asarray(np.random.default_rng(2).normal(size=(BATCH, 3, HEADS, DIM // HEADS)))
    y = module.read(q, state.memory.weights)
    for b in range(BATCH):
        for h in range(HEADS):
            weights = [np.asarray(m[b, h]) for m in state.memory.weights]
            expected = oracle.read_memory(weights, np.asarray(q[b, :, h]))
            tolerances.assert_close(y[b, :, h], expected, tolerances.OUTPUT_F64)


def test_reading_the_residual_network():
    module = nnx.merge(*layer(RESIDUAL))
    state = module.init_state(1)
    q = jnp.asarray(np.random.default_rng(2).normal(size=(1, 1, HEADS, DIM // HEADS)))
    weights = [np.asarray(m[0]) for m in state.memory.weights]
    z = np.stack(
        [oracle.read_memory([m[h] for m in weights], np.asarray(q[0, 0, h])) for h in range(HEADS)]
    )
    normal = (z - z.mean(-1, keepdims=True)) / np.sqrt(z.var(-1, keepdims=True) + 1e-6)
    expected = np.asarray(q[0, 0]) + np.asarray(module.gain[...]) * normal
    tolerances.assert_close(
        module.read(q, state.memory.weights)[0, 0], expected, tolerances.OUTPUT_F64
    )


def test_a_memory_may_begin_closed():
    """With theta's bias far below 0 a sequence changes nothing; with half of theta's range it does."""
    x = inputs()
    for bias in (-60.0, 0.0):
        config = dataclasses.replace(TOKEN, forget=False, step_bias=bias)
        _, state = run(config, x)
        moved = max(
            np.abs(after - before).max()
            for after, before in zip(
                state.memory.weights, fresh(config).memory.weights, strict=True
            )
        )
        assert (moved < 1e-20) == (bias < 0)


def test_without_output_projection_the_gated_heads_come_back():
    graph, parameters = layer(TOKEN)
    module = nnx.merge(graph, parameters)
    y, _ = run(TOKEN, inputs())
    projection, module.output = module.output, None
    heads, _ = compiled(nnx.graphdef(module))(nnx.state(module), inputs())
    tolerances.assert_close(projection(heads), y, tolerances.OUTPUT_F64)
    assert NeuralMemory(DIM, TOKEN, project_output=False, rngs=nnx.Rngs(0)).output is None


def test_a_projection_streams():
    projection = HeadProjection(DIM, HEADS, 4, dtype=jnp.float64, rngs=nnx.Rngs(0))
    x = inputs()
    q, tail = projection(x, projection.init_tail(BATCH))
    first, middle = projection(x[:, :2], projection.init_tail(BATCH))
    second, end = projection(x[:, 2:], middle)
    tolerances.assert_close(jnp.concatenate([first, second], 1), q, tolerances.OUTPUT_F64)
    tolerances.assert_close(end, tail, tolerances.STATE_F64)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_precision(dtype):
    """Outputs in the activations' dtype; parameters, M and S in float32; close to float64."""
    _, parameters = layer(TOKEN)
    expected, _ = run(TOKEN, inputs())
    narrow = NeuralMemory(DIM, TOKEN, dtype=dtype, rngs=nnx.Rngs(0))
    narrow_graph, own = nnx.split(narrow)
    assert {leaf.dtype for leaf in jax.tree.leaves(own)} == {jnp.dtype(jnp.float32)}
    narrow_parameters = jax.tree.map(lambda p, like: p.astype(like.dtype), parameters, own)
    y, state = compiled(narrow_graph)(narrow_parameters, inputs().astype(dtype))
    assert y.dtype == dtype
    float_leaves = jax.tree.leaves(state.memory[:3])
    assert {leaf.dtype for leaf in float_leaves} == {jnp.dtype(jnp.float32)}
    if dtype == jnp.float32:
        tolerances.assert_close(y, expected, tolerances.OUTPUT_F32)
    else:  # on the whole: the norm magnifies the rounding of a read that happens to be small
        error = jnp.sqrt(jnp.mean((y - expected) ** 2))
        assert error <= tolerances.OUTPUT_BF16 * jnp.max(jnp.abs(expected))


def test_a_state_keeps_its_dtypes():
    """What a call returns can be given to the same compiled call: a stream never compiles anew."""
    for dtype in (jnp.float32, jnp.bfloat16):
        module = NeuralMemory(DIM, CHUNKWISE, dtype=dtype, rngs=nnx.Rngs(0))
        state = jax.eval_shape(lambda module=module: module.init_state(BATCH))
        x = jax.ShapeDtypeStruct((BATCH, 3, DIM), dtype)
        _, after = jax.eval_shape(lambda x, s, module=module: module(x, s), x, state)
        assert after == state


def test_a_function_as_the_network():
    """A gated MLP given by the user: streamed equals whole."""
    width = DIM // HEADS

    def init(key):
        keys = jax.random.split(key, 3)
        shapes = {"gate": (width, 6), "up": (width, 6), "down": (6, width)}
        return {
            name: jax.random.normal(k, shape, jnp.float64) / shape[0] ** 0.5
            for k, (name, shape) in zip(keys, shapes.items(), strict=True)
        }

    config = MemoryConfig(num_heads=HEADS, chunk=CHUNK, network=gated_mlp, **RULE_OF_0_1)
    module = NeuralMemory(DIM, config, init_network=init, dtype=jnp.float64, rngs=nnx.Rngs(0))
    graph, parameters = nnx.split(module)
    apply = compiled(graph)
    y, state = apply(parameters, inputs())
    stream, reads = module.init_state(BATCH), []
    for t in range(LENGTH):
        read, stream = apply(parameters, inputs()[:, t : t + 1], stream)
        reads.append(read)
    tolerances.assert_close(jnp.concatenate(reads, 1), y, tolerances.OUTPUT_F64)
    tolerances.assert_close(stream, state, tolerances.STATE_F64)
