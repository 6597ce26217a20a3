"""The gate algebra against products written out, and at its extremes."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests import tolerances
from tests.titans_jax.memory import cases
from titans_jax.memory import Gates
from titans_jax.memory.gates import (
    LOG_ZERO,
    decays,
    gates_from_logits,
    mask_gates,
    summed,
)

SIZE = 7


def random_tile(momentum=True, forget=True, masked=True, seed=0):
    """Gates of one tile [R] and its mask."""
    rng = np.random.default_rng(seed)
    alpha, eta, theta = (rng.uniform(0.05, 0.95, SIZE) for _ in range(3))
    mask = np.array([True, False, True, True, False, False, True]) if masked else None
    gates = Gates.from_values(
        jnp.asarray(alpha) if forget else None,
        jnp.asarray(eta) if momentum else None,
        jnp.asarray(theta),
    )
    return (
        gates,
        alpha if forget else np.zeros(SIZE),
        eta if momentum else np.zeros(SIZE),
        theta,
        mask,
    )


def decays_of(gates, mask, read):
    by_head = jax.tree.map(lambda g: g[:, None], gates)
    if mask is not None:
        by_head = mask_gates(by_head, mask)
    rows = jax.tree.map(lambda g: g.T, summed(by_head))
    moves = None if mask is None else jnp.asarray(mask, jnp.float64)[None]
    in_kernel = decays(rows, moves, read)
    elsewhere = decays(rows, moves, read, jnp.transpose)
    jax.tree.map(np.testing.assert_array_equal, in_kernel, elsewhere)
    return in_kernel


@pytest.mark.parametrize("read", ["after", "before"])
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize(("momentum", "forget"), [(True, True), (False, True), (True, False)])
def test_decays_are_the_coefficients_of_the_recurrence(read, masked, momentum, forget):
    """Eq. 13-14 run on coefficients: M_t and S_t as combinations of M_0, S_0 and every gradient."""
    gates, alpha, eta, theta, mask = random_tile(momentum, forget, masked)
    found = decays_of(gates, mask, read)
    # Columns: M_0, S_0, u_0 .. u_{R-1}.
    m, s = np.eye(2, SIZE + 2)
    rows = []
    for t in range(SIZE):
        before = m
        if mask is None or mask[t]:
            s = eta[t] * s
            s[2 + t] -= theta[t]
            m = (1 - alpha[t]) * m + s
        rows.append(before if read == "before" else m)
    rows = np.stack(rows)

    def given(x, default):
        return np.full((SIZE, 1), default) if x is None else x

    tolerances.assert_close(given(found.keep, 1.0), rows[:, :1], tolerances.OUTPUT_F64)
    tolerances.assert_close(given(found.carry, 0.0), rows[:, 1:2], tolerances.OUTPUT_F64)
    tolerances.assert_close(found.write, -rows[:, 2:], tolerances.OUTPUT_F64)
    tolerances.assert_close(found.end_write[:, 0], -m[2:], tolerances.OUTPUT_F64)
    assert (found.end_keep is None) == (not forget)
    if forget:
        tolerances.assert_close(found.end_keep, m[:1, None], tolerances.OUTPUT_F64)
    if momentum:
        tolerances.assert_close(found.end_carry, m[1:2, None], tolerances.OUTPUT_F64)
        tolerances.assert_close(found.end_eta, s[1:2, None], tolerances.OUTPUT_F64)
        tolerances.assert_close(found.end_momentum[:, 0], -s[2:], tolerances.OUTPUT_F64)


def test_nothing_above_the_diagonal():
    gates, *_ = random_tile(masked=False)
    np.testing.assert_array_equal(jnp.triu(decays_of(gates, None, "after").write, 1), 0)
    np.testing.assert_array_equal(jnp.triu(decays_of(gates, None, "before").write), 0)


def test_masked_tokens_neither_decay_nor_write():
    gates, *_, mask = random_tile()
    gates = jax.tree.map(lambda g: g[:, None], gates)
    masked = mask_gates(gates, jnp.asarray(mask))
    for before, after in zip(gates, masked, strict=True):
        np.testing.assert_array_equal(after[mask], before[mask])
        np.testing.assert_array_equal(after[~mask], 0)


def test_from_values_at_the_ends_of_the_range():
    """alpha = 1 and eta = 0 are decays of nothing; alpha = 0 and eta = 1 are exact; gradients finite."""
    values = jnp.asarray([0.0, 0.25, 1.0])
    gates = Gates.from_values(values, values, values)
    np.testing.assert_array_equal(gates.log_keep[0], 0)
    np.testing.assert_array_equal(gates.log_eta[2], 0)
    np.testing.assert_allclose(jnp.exp(gates.log_keep), [1, 0.75, 0], atol=1e-30)
    np.testing.assert_allclose(jnp.exp(gates.log_eta), [0, 0.25, 1], atol=1e-30)

    def total(alpha, eta):
        return sum(jnp.sum(jnp.exp(g)) for g in Gates.from_values(alpha, eta, values)[:2])

    for gradient, sign in zip(jax.grad(total, (0, 1))(values, values), (-1, 1), strict=True):
        assert jnp.isfinite(gradient).all()
        tolerances.assert_close(gradient[1], np.float64(sign), tolerances.GRAD_F64)
    off = Gates.from_values(None, None, values)
    assert off.log_keep is None
    assert off.log_eta is None


@pytest.mark.parametrize("momentum", [True, False])
@pytest.mark.parametrize("forget", [True, False])
def test_gates_of_logits(momentum, forget):
    """alpha = sigmoid(a), eta = sigmoid(e), theta = step (1 - eta) sigmoid(t)."""
    logits = np.random.default_rng(0).normal(size=(2, 5, 3, 2))
    gates = gates_from_logits(jnp.asarray(logits), step_size=0.3, momentum=momentum, forget=forget)
    alpha, eta, theta = np.moveaxis(1 / (1 + np.exp(-logits)), 2, 0)
    if not momentum:
        eta = np.zeros_like(eta)
    tolerances.assert_close(gates.theta, 0.3 * (1 - eta) * theta, tolerances.OUTPUT_F64)
    assert (gates.log_keep is None, gates.log_eta is None) == (not forget, not momentum)
    if forget:
        tolerances.assert_close(jnp.exp(gates.log_keep), 1 - alpha, tolerances.OUTPUT_F64)
    if momentum:
        tolerances.assert_close(jnp.exp(gates.log_eta), eta, tolerances.OUTPUT_F64)


@pytest.mark.parametrize("value", [-1e4, -200.0, 200.0, 1e4])
def test_gates_of_extreme_logits_stay_finite(value):
    logits = jnp.full((1, 1, 3, 1), value, jnp.float32)

    def total(logits):
        gates = gates_from_logits(logits, step_size=0.3, momentum=True, forget=True)
        return sum(jnp.sum(g) for g in gates), gates

    (_, gates), gradient = jax.value_and_grad(total, has_aux=True)(logits)
    assert all(jnp.isfinite(g).all() for g in (*gates, gradient))
    assert min(gates.log_keep.min(), gates.log_eta.min()) >= LOG_ZERO
    assert gates.theta.dtype == jnp.float32


LONG = 512


@functools.cache
def long_run(tile, dtype):
    """Compiled outputs and gradients of a memory over one chunk of 512 tokens, all of it in ``dtype``."""
    case = cases.Case(depth=1, chunk=LONG, tile=tile)

    def run(keep, eta, theta):
        inputs, flags = cases.problem(case, length=LONG)
        inputs = jax.tree.map(lambda x: x.astype(dtype), inputs)

        def loss(keep, eta, theta):
            gates = Gates.from_values(1 - keep, eta, theta)
            (y, state), _ = cases.apply(case, "chunked", inputs._replace(gates=gates), flags)
            return jnp.sum(y**2), (y, state)

        return jax.value_and_grad(loss, (0, 1, 2), has_aux=True)(
            keep.astype(dtype), eta.astype(dtype), theta.astype(dtype)
        )

    return jax.jit(run)


def long_gates(name):
    """Gates [B, T, H] of one hard case."""
    shape = (cases.BATCH, LONG, cases.HEADS)
    rng = np.random.default_rng(0)
    ones = np.ones(shape)
    step = ones * 1e-3
    return {
        "underflow": (0.2 * ones, 0.2 * ones, step),  # 0.2^512 is 1e-358
        "alpha one": (0.0 * ones, 0.5 * ones, step),
        "eta zero": (0.99 * ones, 0.0 * ones, step),
        "theta zero": (0.9 * ones, 0.9 * ones, 0.0 * ones),
        "nothing decays": (ones, ones, 1e-6 * ones),
        "now and then": (*(np.where(rng.random(shape) < 0.02, 0.0, 0.95) for _ in range(2)), step),
    }[name]


@pytest.mark.parametrize("tile", [128, 512])
@pytest.mark.parametrize(
    "name",
    ["underflow", "alpha one", "eta zero", "theta zero", "nothing decays", "now and then"],
)
def test_extreme_gates_over_512_tokens_in_float32(name, tile):
    """Values and gradients are finite, and are those of float64."""
    gates = tuple(jnp.asarray(x) for x in long_gates(name))
    (_, actual), gradients = long_run(tile, jnp.float32)(*gates)
    (_, expected), expected_gradients = long_run(128, jnp.float64)(*gates)
    assert {leaf.dtype for leaf in jax.tree.leaves(actual)} == {jnp.dtype(jnp.float32)}
    # A decay of exactly zero adds -80 to the sums of logarithms, and takes digits from its neighbours'.
    tolerance = tolerances.GRAD_F32 if name == "now and then" else tolerances.OUTPUT_F32
    tolerances.assert_close(actual, expected, tolerance)
    tolerances.assert_close(gradients, expected_gradients, tolerances.GRAD_F32)
