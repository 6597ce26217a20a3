"""Every execution against token by token, forward and backward, and token by token against numpy."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests import tolerances
from tests.titans_jax.memory import cases, oracle
from tests.titans_jax.memory.cases import Case, Flags
from titans_jax.memory.api import choose_execution
from titans_jax.memory.networks import MLPNetwork
from titans_jax.memory.rule import Rule

# Token by token against numpy

BY_HAND = (
    Case(depth=1, chunk=1, bound="gradient"),  # which a linear memory is not
    Case(depth=2, chunk=4, bound="gradient", masked=True, resets=True, carried=True),
    Case(depth=2, chunk=5, masked=True, carried=True, read="before"),
    Case(depth=1, chunk=5, momentum=False, forget=False),
    Case(
        chunk=5,
        anchor="token",
        bound="features",
        based=True,
        masked=True,
        resets=True,
        carried=True,
    ),
    Case(chunk=4, anchor="token", bound="gradient", lower_step=0.3, read="before", carried=True),
    Case(depth=1, chunk=4, anchor="token", based=True),
)


def in_numpy(case, inputs, flags):
    """The numpy oracle's reads and final state."""
    inputs, flags = jax.tree.map(np.asarray, (inputs, flags))
    shape = inputs.q.shape[:2]
    mask = np.ones(shape, bool) if flags.mask is None else flags.mask
    reset = np.zeros(shape, bool) if flags.reset is None else flags.reset
    return oracle.memory(inputs, flags.position, mask, reset, case)


@pytest.mark.parametrize("case", BY_HAND, ids=str)
def test_token_by_token_equals_numpy(case):
    inputs, flags = cases.problem(case)
    (y, state), position = cases.forward(case, "sequential")(inputs, flags)
    expected_y, (weights, momentum, anchor) = in_numpy(case, inputs, flags)
    if not case.momentum:  # S plays no part then, and is handed on as it came
        momentum = inputs.momentum
    tolerances.assert_close(y, expected_y, tolerances.OUTPUT_F64)
    tolerances.assert_close(state, (weights, momentum, anchor), tolerances.STATE_F64)
    np.testing.assert_array_equal(position, (flags.position + cases.LENGTH) % case.chunk)


@pytest.mark.parametrize("case", [BY_HAND[1], BY_HAND[2], BY_HAND[4], BY_HAND[5]], ids=str)
def test_gradients_token_by_token_equal_differences_in_numpy(case):
    """Along random directions of all inputs at once: jax.grad of jax.grad, against plain numpy."""
    inputs, flags = cases.problem(case)
    results, _ = cases.forward(case, "sequential")(inputs, flags)
    cotangent = cases.random_like(results, 1)
    _, _, gradients = cases.forward_and_backward(case, "sequential")(inputs, flags, cotangent)

    def total(x):
        terms = jax.tree.map(
            lambda r, c: np.sum(r * np.asarray(c)), in_numpy(case, x, flags), cotangent
        )
        return sum(jax.tree.leaves(terms))

    step = 1e-5
    for seed in (2, 3):
        direction = cases.random_like(inputs, seed)
        moved = [
            jax.tree.map(lambda x, d, s=sign: x + s * step * d, inputs, direction)
            for sign in (1, -1)
        ]
        numerical = (total(moved[0]) - total(moved[1])) / (2 * step)
        products = jax.tree.map(lambda g, d: jnp.sum(g * d), gradients, direction)
        tolerances.assert_close(
            sum(jax.tree.leaves(products)), numerical, tolerances.NUMERICAL_GRAD_F64
        )


# Every execution against token by token

BY_CHUNK = ("chunked", "fused")
PARALLEL = (*BY_CHUNK, "associative_scan")

# Not every combination, but every value of every option in every execution's own code: "chunked" and "fused" share the
# step of a tile (test_fused.py holds the kernel to the scan), and all share the gates.
BOTH = ("chunked", "associative_scan")
COVERING = (
    (Case(depth=1, chunk=1), BOTH),
    (Case(depth=1, chunk=1, tile=5, masked=True, carried=True, read="before"), ("chunked",)),
    (Case(depth=1, chunk=1, tile=5, bound="gradient", momentum=False), ("chunked",)),
    (Case(depth=1, chunk=1, tile=4, forget=False), ("chunked",)),
    (Case(depth=1, chunk=1, tile=4, resets=True), ("chunked",)),
    (Case(depth=2, chunk=4, tile=2, masked=True, resets=True, carried=True), PARALLEL),
    (Case(depth=2, chunk=5, tile=2, bound="gradient", masked=True, read="before"), BOTH),
    (Case(depth=3, chunk=12, tile=5, bound="gradient"), BOTH),
    (Case(depth=4, chunk=5, bound="gradient", resets=True), ("fused",)),
    (Case("residual", 1, chunk=4, tile=3, bound="gradient", resets=True, carried=True), BOTH),
    (Case("residual", 2, chunk=5, carried=True, read="before"), ("fused",)),
    (
        Case("residual", 3, chunk=16, tile=4, bound="gradient", masked=True, carried=True),
        ("chunked",),
    ),
    (Case("residual", 4, chunk=1), ("associative_scan",)),
    (Case(depth=2, chunk=5, tile=2, momentum=False, masked=True, carried=True), BOTH),
    (Case(depth=2, chunk=4, tile=3, forget=False, masked=True, read="before"), BOTH),
    (Case("residual", 2, chunk=4, momentum=False, forget=False), ("fused",)),
    (Case(depth=2, chunk=4, tile=3, based=True, masked=True, resets=True, carried=True), BOTH),
    (Case("residual", 2, chunk=5, bound="features", lower_step=0.3, carried=True), BOTH),
    (
        Case(depth=1, chunk=5, anchor="token", tile=3, masked=True, resets=True, carried=True),
        ("chunked",),
    ),
    (Case(depth=2, chunk=12, anchor="token", tile=5, bound="features", based=True), ("fused",)),
    (
        Case(
            chunk=5,
            anchor="token",
            bound="gradient",
            masked=True,
            resets=True,
            carried=True,
            read="before",
        ),
        PARALLEL,
    ),
    (
        Case(depth=3, chunk=4, anchor="token", lower_step=0.3, momentum=False, carried=True),
        ("chunked",),
    ),
    (Case(depth=4, chunk=12, anchor="token", tile=4, bound="gradient", forget=False), BOTH),
    (
        Case("residual", 2, chunk=4, anchor="token", tile=3, based=True, masked=True, carried=True),
        ("associative_scan",),
    ),
    (
        Case(
            "residual",
            1,
            chunk=6,
            anchor="token",
            tile=2,
            bound="features",
            masked=True,
            carried=True,
        ),
        ("chunked",),
    ),
    (
        Case("residual", 2, chunk=5, anchor="token", bound="gradient", based=True, resets=True),
        ("fused",),
    ),
    (
        Case("gated", chunk=5, tile=2, bound="gradient", masked=True, resets=True, carried=True),
        ("associative_scan",),
    ),
    (Case("gated", chunk=4, momentum=False, forget=False, read="before"), ("associative_scan",)),
    (Case("gated", chunk=4, tile=2, based=True, masked=True, carried=True), ("associative_scan",)),
)


@pytest.mark.parametrize(
    ("case", "execution"),
    [pytest.param(case, e, id=f"{e}-{case}") for case, executions in COVERING for e in executions],
)
def test_execution_equals_token_by_token(case, execution):
    """Reads, final state, and the gradients of every input, gate, slow gain and M_0, S_0, anchor."""
    inputs, flags = cases.problem(case)
    shapes, _ = jax.eval_shape(functools.partial(cases.apply, case, "sequential"), inputs, flags)
    cotangent = cases.random_like(shapes, 1)
    (y, state), position, gradients = reference(case)(inputs, flags, cotangent)
    (actual_y, actual_state), actual_position, actual_gradients = cases.forward_and_backward(
        case, execution
    )(inputs, flags, cotangent)
    assert actual_y.dtype == jnp.float64
    tolerances.assert_close(actual_y, y, tolerances.OUTPUT_F64)
    tolerances.assert_close(actual_state, state, tolerances.STATE_F64)
    np.testing.assert_array_equal(actual_position, position)
    tolerances.assert_close(actual_gradients, gradients, tolerances.GRAD_F64)
    assert all(jnp.any(leaf != 0) for leaf in jax.tree.leaves(actual_gradients.gates))


def reference(case):
    """Token by token; it has no tile, so cases that differ in it share one compiled function."""
    return cases.forward_and_backward(dataclasses.replace(case, tile=None), "sequential")


# Any shape, any split, any flags

STREAMED = (
    (Case(depth=2, chunk=3, masked=True, resets=True, carried=True), "chunked"),
    (
        Case(depth=2, chunk=5, tile=2, bound="gradient", masked=True, resets=True, carried=True),
        "chunked",
    ),
    (
        Case("residual", 2, chunk=4, tile=3, masked=True, resets=True, carried=True),
        "associative_scan",
    ),
    (Case(depth=1, chunk=1, tile=4, masked=True, carried=True), "chunked"),
    (
        Case(
            chunk=5,
            tile=2,
            anchor="token",
            bound="features",
            based=True,
            masked=True,
            resets=True,
            carried=True,
        ),
        "chunked",
    ),
)
PIECES = (1, 2, 5)


@st.composite
def splits(draw):
    """Lengths from `PIECES`, of which only so many compile, that add up to the whole."""
    pieces, left = [], cases.LENGTH
    while left:
        pieces.append(draw(st.sampled_from([n for n in PIECES if n <= left])))
        left -= pieces[-1]
    return pieces


@given(which=st.sampled_from(STREAMED), seed=st.integers(0, 2**16), pieces=splits())
@settings(max_examples=25)
def test_any_split_equals_the_whole(which, seed, pieces):
    """Any flags and any place in the chunk to start from; token by token as the reference."""
    case, execution = which
    inputs, flags = cases.problem(case, seed)
    (expected_y, expected), expected_position = cases.forward(
        dataclasses.replace(case, tile=None), "sequential"
    )(inputs, flags)
    reads, start, state, position = [], 0, None, flags.position
    for length in pieces:
        part, part_flags = jax.tree.map(
            lambda x, at=start, n=length: x[:, at : at + n],
            ((inputs.q, inputs.k, inputs.v, inputs.gates), (flags.mask, flags.reset)),
        )
        m, s, anchor = (inputs.weights, inputs.momentum, inputs.anchor) if state is None else state
        piece = inputs._replace(
            **dict(zip(("q", "k", "v", "gates"), part, strict=True)),
            weights=m,
            momentum=s,
            anchor=anchor,
        )
        (y, state), position = cases.forward(case, execution)(piece, Flags(position, *part_flags))
        reads.append(y)
        start += length
    tolerances.assert_close(jnp.concatenate(reads, 1), expected_y, tolerances.OUTPUT_F64)
    tolerances.assert_close(state, expected, tolerances.STATE_F64)
    np.testing.assert_array_equal(position, expected_position)


extremes = st.sampled_from([0.0, 1e-30, 1e-6, 0.3, 0.999, 1.0])


@given(
    which=st.sampled_from(STREAMED),
    seed=st.integers(0, 2**16),
    keep=st.lists(extremes, min_size=cases.LENGTH, max_size=cases.LENGTH),
    eta=st.lists(extremes, min_size=cases.LENGTH, max_size=cases.LENGTH),
    stepped=st.lists(st.booleans(), min_size=cases.LENGTH, max_size=cases.LENGTH),
)
@settings(max_examples=25)
def test_any_gates_equal_token_by_token(which, seed, keep, eta, stepped):
    """Gates that are exactly 0 or 1, or underflow, at any token."""
    case, execution = which
    inputs, flags = cases.problem(case, seed)

    def per_token(x):
        return jnp.broadcast_to(jnp.asarray(x)[None, :, None], inputs.gates.theta.shape)

    gates = cases.Gates.from_values(
        1.0 - per_token(keep), per_token(eta), inputs.gates.theta * per_token(stepped)
    )
    inputs = inputs._replace(gates=gates)
    expected, _ = cases.forward(dataclasses.replace(case, tile=None), "sequential")(inputs, flags)
    actual, _ = cases.forward(case, execution)(inputs, flags)
    tolerances.assert_close(actual, expected, tolerances.OUTPUT_F64)


def test_gradients_pass_through_a_split():
    """Backward through the carried state: two calls of 7 and 5 tokens against one of 12."""
    case = Case(depth=2, chunk=5, tile=2, masked=True, carried=True)
    inputs, flags = cases.problem(case)

    def split(inputs, flags, cut=7):
        reads, piece, position = [], inputs, flags.position
        for a, b in ((0, cut), (cut, cases.LENGTH)):
            tokens = jax.tree.map(
                lambda x, a=a, b=b: x[:, a:b], (inputs.q, inputs.k, inputs.v, inputs.gates)
            )
            piece = piece._replace(**dict(zip(("q", "k", "v", "gates"), tokens, strict=True)))
            part = Flags(position, flags.mask[:, a:b], None)
            (y, state), position = cases.apply(case, "chunked", piece, part)
            piece = piece._replace(weights=state[0], momentum=state[1], anchor=state[2])
            reads.append(y)
        return jnp.concatenate(reads, 1), state

    def split_and_back(inputs, flags, cotangent):
        results, pullback = jax.vjp(lambda x: split(x, flags), inputs)
        return results, pullback(cotangent)[0]

    shapes, _ = jax.eval_shape(functools.partial(cases.apply, case, "sequential"), inputs, flags)
    cotangent = cases.random_like(shapes, 1)
    expected, _, expected_gradients = reference(case)(inputs, flags, cotangent)
    actual, gradients = jax.jit(split_and_back)(inputs, flags, cotangent)
    tolerances.assert_close(actual, expected, tolerances.OUTPUT_F64)
    tolerances.assert_close(gradients, expected_gradients, tolerances.GRAD_F64)


# Independence of batch and heads, masks, precision, and the choice of an execution


@pytest.mark.parametrize(("case", "execution"), STREAMED[1:], ids=str)
def test_sequences_and_heads_do_not_touch(case, execution):
    """Other numbers in sequence 1, head 1 leave every other read exactly as it was."""
    inputs, flags = cases.problem(case)
    (y, _), _ = cases.forward(case, execution)(inputs, flags)
    changed = inputs._replace(
        k=inputs.k.at[1, :, 1].multiply(-1.0), v=inputs.v.at[1, :, 1].add(1.0)
    )
    (other, _), _ = cases.forward(case, execution)(changed, flags)
    np.testing.assert_array_equal(y[0], other[0])
    np.testing.assert_array_equal(y[1, :, 0], other[1, :, 0])
    assert jnp.any(y[1, :, 1] != other[1, :, 1])


@pytest.mark.parametrize("execution", ["sequential", "associative_scan"])
def test_a_gain_is_that_of_its_head(execution):
    """What all executions share no comparison of them can tell."""
    case = STREAMED[2][0]
    inputs, flags = cases.problem(case)
    (y, _), _ = cases.forward(case, execution)(inputs, flags)
    changed = inputs._replace(gain=inputs.gain.at[1].multiply(2.0))
    (other, _), _ = cases.forward(case, execution)(changed, flags)
    np.testing.assert_array_equal(y[:, :, 0], other[:, :, 0])
    assert jnp.all(jnp.any(y[:, :, 1] != other[:, :, 1], axis=-1))


@pytest.mark.parametrize(("case", "execution"), STREAMED[1:], ids=str)
@pytest.mark.parametrize("changed_at", [1, 6, 11])
def test_a_token_reaches_no_earlier_read(case, execution, changed_at):
    inputs, flags = cases.problem(case, seed=1)
    flags = flags._replace(mask=jnp.ones_like(flags.mask))
    (y, _), _ = cases.forward(case, execution)(inputs, flags)
    t = slice(changed_at, changed_at + 1)
    changed = inputs._replace(
        q=inputs.q.at[:, t].add(1.0),
        k=inputs.k.at[:, t].add(1.0),
        v=inputs.v.at[:, t].add(1.0),
        gates=jax.tree.map(lambda g: g.at[:, t].multiply(0.5), inputs.gates),
    )
    (other, _), _ = cases.forward(case, execution)(changed, flags)
    np.testing.assert_array_equal(y[:, :changed_at], other[:, :changed_at])
    assert jnp.all(jnp.any(y[:, t] != other[:, t], axis=-1))


@pytest.mark.parametrize(("case", "execution"), STREAMED[1:], ids=str)
def test_padding_is_an_identity_step(case, execution):
    """Nothing at a masked token matters, and a call of nothing but padding changes neither M nor S."""
    inputs, flags = cases.problem(case)
    flags = flags._replace(reset=None if flags.reset is None else jnp.zeros_like(flags.reset))
    (y, state), _ = cases.forward(case, execution)(inputs, flags)
    padding = ~flags.mask[..., None, None]
    garbage = inputs._replace(
        k=jnp.where(padding, 7.0, inputs.k),
        v=jnp.where(padding, -7.0, inputs.v),
        gates=jax.tree.map(lambda g: jnp.where(padding[..., 0], 0.5 * g, g), inputs.gates),
    )
    (other, other_state), _ = cases.forward(case, execution)(garbage, flags)
    tolerances.assert_close((other, other_state), (y, state), tolerances.OUTPUT_F64)

    nothing = flags._replace(mask=jnp.zeros_like(flags.mask))
    (_, (weights, momentum, _)), _ = cases.forward(case, execution)(inputs, nothing)
    tolerances.assert_close(
        (weights, momentum), (inputs.weights, inputs.momentum), tolerances.STATE_F64
    )


def test_a_reset_is_a_fresh_sequence():
    """After a document's start nothing is left of what came before, and the start is `initial`."""
    case, execution = STREAMED[0]
    inputs, flags = cases.problem(case)
    start = 6
    flags = Flags(
        position=jnp.zeros_like(flags.position),
        mask=jnp.ones_like(flags.mask),
        reset=jnp.zeros_like(flags.reset).at[:, start].set(True),
    )
    (y, state), _ = cases.forward(case, execution)(inputs, flags)
    other = inputs._replace(weights=inputs.anchor, v=inputs.v.at[:, :start].add(1.0))
    (other_y, other_state), _ = cases.forward(case, execution)(other, flags)
    np.testing.assert_array_equal(y[:, start:], other_y[:, start:])
    jax.tree.map(np.testing.assert_array_equal, state, other_state)

    tail = jax.tree.map(lambda x: x[:, start:], (inputs.q, inputs.k, inputs.v, inputs.gates))
    weights, momentum = jax.tree.map(lambda x: jnp.stack([x] * cases.BATCH), inputs.initial)
    alone = inputs._replace(
        **dict(zip(("q", "k", "v", "gates"), tail, strict=True)),
        weights=weights,
        momentum=momentum,
        initial=None,
    )
    fresh = Flags(flags.position, flags.mask[:, start:], None)
    (alone_y, alone_state), _ = cases.forward(case, execution)(alone, fresh)
    tolerances.assert_close(y[:, start:], alone_y, tolerances.OUTPUT_F64)
    tolerances.assert_close(state, alone_state, tolerances.STATE_F64)


@pytest.mark.parametrize("tile", [1, 2, 3, 5, 7, 12])
def test_the_tile_changes_nothing(tile):
    case = Case(depth=2, chunk=12, masked=True)
    inputs, flags = cases.problem(case)
    expected, _ = cases.forward(case, "chunked")(inputs, flags)
    actual, _ = cases.forward(dataclasses.replace(case, tile=tile), "chunked")(inputs, flags)
    tolerances.assert_close(actual, expected, tolerances.OUTPUT_F64)


@pytest.mark.parametrize(
    ("case", "execution"),
    [
        (Case(depth=2, chunk=4), "chunked"),
        (Case(depth=2, chunk=4), "associative_scan"),
        (Case(depth=1, chunk=1), "chunked"),
        (Case(depth=2, chunk=4, anchor="token", based=True), "chunked"),
    ],
    ids=str,
)
def test_bfloat16_tokens_with_float32_state(case, execution):
    """State and sums stay in float32, so that only the tokens are rounded."""
    inputs, flags = cases.problem(case)
    narrow = jax.tree.map(lambda x: x.astype(jnp.float32), inputs)
    half = narrow._replace(**{n: getattr(narrow, n).astype(jnp.bfloat16) for n in ("q", "k", "v")})
    (expected, expected_state), _ = cases.forward(case, execution)(narrow, flags)
    (y, state), _ = cases.forward(case, execution)(half, flags)
    assert expected.dtype == jnp.float32
    assert {leaf.dtype for leaf in jax.tree.leaves(state)} == {jnp.dtype(jnp.float32)}
    tolerances.assert_close(y, expected, tolerances.OUTPUT_BF16)
    tolerances.assert_close(state, expected_state, tolerances.OUTPUT_BF16)
    assert jnp.any(y != expected)
    exact, _ = cases.forward(case, "sequential")(inputs, flags)
    tolerances.assert_close((expected, expected_state), exact, tolerances.OUTPUT_F32)


def test_auto_chooses_what_can_run():
    deep, function = Rule(MLPNetwork("mlp", 2, 2)), Rule(cases.gated_mlp)
    assert choose_execution(deep, "auto", 8) == "chunked"
    assert choose_execution(deep, "auto", 1) == "token"
    assert choose_execution(function, "auto", 1) == "sequential"
    assert choose_execution(function, "auto", 8) == "associative_scan"
    assert choose_execution(deep, "associative_scan", 8) == "associative_scan"
