"""Published recurrences that the memory contains, against oracles that know nothing of it.

Every oracle is the recurrence as its paper prints it, a loop over tokens in numpy, one head at a time.
Rows are features here: a memory is [d_in, d_out] and reads q M, where the papers write S q with S
transposed.

* linear attention: Katharopoulos et al. 2020 (arXiv 2006.16236), Eq. 18-20 without normaliser and
  feature map; with a scalar decay: RetNet, Sun et al. 2023 (arXiv 2307.08621), §2.1, recurrent form;
* DeltaNet: Schlag et al. 2021 (arXiv 2102.11174), §4.2, the delta update rule;
* Gated DeltaNet: Yang et al. 2024 (arXiv 2412.06464), Eq. 10;
* TTT-Linear with mini-batches: Sun et al. 2024 (arXiv 2407.04620), Eq. 1 with the gradients of §2.4 and
  the f of §2.7 (LayerNorm and residual).
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests import tolerances
from titans_jax.memory import Gates, MemoryState, MLPNetwork, Rule, memory_scan

BATCH, HEADS, LENGTH, WIDTH = 2, 2, 12, 4
EVERY = ("sequential", "associative_scan", "chunked")
#: Executions of the online rule; "token anchor" is it at a chunk of 5, of which no number depends.
ONLINE = (*EVERY, "token anchor")
LINEAR = MLPNetwork("mlp", 1, 1)
SCAN = jax.jit(memory_scan, static_argnames=("chunk", "execution"))


def tokens(seed=0, length=LENGTH):
    """q, k (unit length) and v, [B, T, H, K]."""
    generator = np.random.default_rng(seed)
    q, k, v = generator.normal(size=(3, BATCH, length, HEADS, WIDTH))
    return *(x / np.linalg.norm(x, axis=-1, keepdims=True) for x in (q, k)), v


def between(low, high, seed=1, length=LENGTH):
    """One random gate, [B, T, H]."""
    return np.random.default_rng(seed).uniform(low, high, size=(BATCH, length, HEADS))


def matrices(network, seed=2):
    """Random M_0, one [B, H, d_in, d_out] per layer."""
    generator = np.random.default_rng(seed)
    return tuple(
        generator.normal(size=(BATCH, HEADS, din, dout)) / din**0.5
        for din, dout in network.shapes(WIDTH)
    )


def run(network, start, q, k, v, alpha, eta, theta, *, chunk, execution, gain=None):
    """Our memory from M = start and S = momentum (zero): reads and final (M, S), as numpy."""
    weights = jax.tree.map(jnp.asarray, start)
    rule = Rule(network, gain=gain)
    if execution == "token anchor":
        rule, chunk, execution = Rule(network, anchor="token"), 5, "chunked"
    state = MemoryState(
        weights=weights,
        momentum=jax.tree.map(jnp.zeros_like, weights),
        anchor=weights,
        position=jnp.zeros(BATCH, jnp.int32),
    )
    alpha, eta, theta = (None if one is None else jnp.asarray(one) for one in (alpha, eta, theta))
    gates = Gates.from_values(alpha, eta, theta)
    y, state = SCAN(
        rule, state, *map(jnp.asarray, (q, k, v)), gates, chunk=chunk, execution=execution
    )
    assert y.dtype == np.float64
    return np.asarray(y), jax.tree.map(np.asarray, state)


def by_head(recurrence, *arrays):
    """Runs a one-head recurrence for each sequence and head: (reads, final memory) stacked."""
    reads, finals = [], []
    for b in range(BATCH):
        for h in range(HEADS):
            y, final = recurrence(*(array[b, :, h] for array in arrays))
            reads.append(y)
            finals.append(final)
    y = np.stack(reads).reshape(BATCH, HEADS, LENGTH, WIDTH).transpose(0, 2, 1, 3)
    return y, np.stack(finals).reshape(BATCH, HEADS, *finals[0].shape)


def check(actual, expected):
    """Compares (reads, state) of a one-matrix memory with an oracle's (reads, final memory)."""
    (y, state), (expected_y, expected_final) = actual, expected
    tolerances.assert_close(y, expected_y, tolerances.OUTPUT_F64)
    tolerances.assert_close(state.weights[0], expected_final, tolerances.STATE_F64)


ZERO = (np.zeros((BATCH, HEADS, WIDTH, WIDTH)),)


@pytest.mark.parametrize("execution", EVERY)
@pytest.mark.parametrize("decayed", [False, True])
def test_linear_attention(execution, decayed):
    """One chunk, gradients at M = 0, theta = 1/2: M_t = (1 - alpha_t) M_{t-1} + k_t v_t^T."""
    q, k, v = tokens()
    alpha = between(0.0, 0.5) if decayed else np.zeros((BATCH, LENGTH, HEADS))

    def recurrence(q, k, v, alpha):
        memory, reads = np.zeros((WIDTH, WIDTH)), []
        for t in range(LENGTH):
            memory = (1 - alpha[t]) * memory + np.outer(k[t], v[t])
            reads.append(q[t] @ memory)
        return np.stack(reads), memory

    half = np.full((BATCH, LENGTH, HEADS), 0.5)
    actual = run(
        LINEAR,
        ZERO,
        q,
        k,
        v,
        alpha if decayed else None,
        None,
        half,
        chunk=LENGTH,
        execution=execution,
    )
    check(actual, by_head(recurrence, q, k, v, alpha))


@pytest.mark.parametrize("execution", ONLINE)
def test_delta_net(execution):
    """Chunk 1, no forgetting, no momentum, theta = beta / 2: the delta rule."""
    q, k, v = tokens()
    beta = between(0.0, 1.0)

    def recurrence(q, k, v, beta):
        memory, reads = np.zeros((WIDTH, WIDTH)), []
        for t in range(LENGTH):
            old = k[t] @ memory
            new = beta[t] * v[t] + (1 - beta[t]) * old
            memory = memory - np.outer(k[t], old) + np.outer(k[t], new)
            reads.append(q[t] @ memory)
        return np.stack(reads), memory

    actual = run(LINEAR, ZERO, q, k, v, None, None, beta / 2, chunk=1, execution=execution)
    check(actual, by_head(recurrence, q, k, v, beta))


@pytest.mark.parametrize("execution", ONLINE)
def test_gated_delta_net(execution):
    """S_t = keep_t S_{t-1} (I - beta_t k_t k_t^T) + beta_t v_t k_t^T.

    It decays *before* it compares with the value, where Eq. 13 and 14 take the gradient at the memory
    that has not been decayed. So it is the memory with theta = keep beta / 2 and values v / keep.
    """
    q, k, v = tokens()
    beta, keep = between(0.0, 1.0), between(0.5, 1.0, seed=3)

    def recurrence(q, k, v, beta, keep):
        memory, reads = np.zeros((WIDTH, WIDTH)), []
        for t in range(LENGTH):
            erase = np.eye(WIDTH) - beta[t] * np.outer(k[t], k[t])
            memory = keep[t] * erase @ memory + beta[t] * np.outer(k[t], v[t])
            reads.append(q[t] @ memory)
        return np.stack(reads), memory

    actual = run(
        LINEAR,
        ZERO,
        q,
        k,
        v / keep[..., None],
        1 - keep,
        None,
        keep * beta / 2,
        chunk=1,
        execution=execution,
    )
    check(actual, by_head(recurrence, q, k, v, beta, keep))


@pytest.mark.parametrize("execution", EVERY)
@pytest.mark.parametrize("batch", [1, 4, 5, LENGTH])
def test_ttt_linear(execution, batch):
    """W_t = W_{t-1} - eta grad l(W_{t'}; x_t) with t' the start of the mini-batch; z_t = f(q_t; W_t)."""
    q, k, v = tokens()
    rate = between(0.0, 0.4)
    start = matrices(LINEAR)
    starts = iter(start[0].reshape(-1, WIDTH, WIDTH))

    def recurrence(q, k, v, rate):
        memory, reads = next(starts), []
        for t in range(LENGTH):
            if t % batch == 0:
                anchor = memory
            memory = memory - rate[t] * 2 * np.outer(k[t], k[t] @ anchor - v[t])
            reads.append(q[t] @ memory)
        return np.stack(reads), memory

    actual = run(LINEAR, start, q, k, v, None, None, rate, chunk=batch, execution=execution)
    check(actual, by_head(recurrence, q, k, v, rate))


@pytest.mark.parametrize("execution", EVERY)
@pytest.mark.parametrize("batch", [1, 4])
def test_ttt_linear_with_norm_and_residual(execution, batch):
    """TTT-Linear proper, f(x) = x + LayerNorm(x W): our `residual` network of depth 1."""
    network = MLPNetwork("residual", 1, 1)
    epsilon = 1e-6
    q, k, v = tokens()
    rate = between(0.0, 0.1)
    start = matrices(network)
    gain = np.random.default_rng(5).uniform(0.5, 1.5, size=(HEADS, WIDTH))

    def norm(z):
        deviation = np.sqrt(z.var() + epsilon)
        return (z - z.mean()) / deviation, deviation

    def recurrence(memory, gain, q, k, v, rate):
        reads = []
        for t in range(LENGTH):
            if t % batch == 0:
                anchor = memory
            normal, deviation = norm(k[t] @ anchor)
            # The LayerNorm's Jacobian, written out: d normal_j / d z_i.
            jacobian = (np.eye(WIDTH) - 1 / WIDTH - np.outer(normal, normal) / WIDTH) / deviation
            error = jacobian @ (gain * 2 * (k[t] + gain * normal - v[t]))
            memory = memory - rate[t] * np.outer(k[t], error)
            reads.append(q[t] + gain * norm(q[t] @ memory)[0])
        return np.stack(reads), memory

    pairs = [(start[0][b, h], gain[h]) for b in range(BATCH) for h in range(HEADS)]
    each = iter(pairs)
    expected = by_head(lambda *arrays: recurrence(*next(each), *arrays), q, k, v, rate)
    actual = run(
        network,
        start,
        q,
        k,
        v,
        None,
        None,
        rate,
        chunk=batch,
        execution=execution,
        gain=jnp.asarray(gain)[:, None],
    )
    check(actual, expected)


@pytest.mark.parametrize("execution", EVERY)
@pytest.mark.parametrize("switched_off", [False, True])
@pytest.mark.parametrize("chunk", [1, 5])
def test_no_momentum_is_gradient_descent(execution, switched_off, chunk):
    """eta = 0 (given as zeros, or switched off): a two-layer MLP trained by SGD, by hand."""
    network = MLPNetwork("mlp", 2, 2)
    q, k, v = tokens()
    rate = between(0.0, 0.1)
    start = matrices(network)
    pairs = [(start[0][b, h], start[1][b, h]) for b in range(BATCH) for h in range(HEADS)]
    each = iter(pairs)
    lasts = []

    def recurrence(q, k, v, rate):
        first, second = next(each)
        reads = []
        for t in range(LENGTH):
            if t % chunk == 0:
                anchor = first, second
            before = k[t] @ anchor[0]
            squash = 1 / (1 + np.exp(-before))
            hidden = before * squash
            error = 2 * (hidden @ anchor[1] - v[t])
            slope = squash + hidden * (1 - squash)
            back = (anchor[1] @ error) * slope
            first = first - rate[t] * np.outer(k[t], back)
            second = second - rate[t] * np.outer(hidden, error)
            z = q[t] @ first
            reads.append((z / (1 + np.exp(-z))) @ second)
        lasts.append(second)
        return np.stack(reads), first

    expected = by_head(recurrence, q, k, v, rate)
    eta = None if switched_off else np.zeros((BATCH, LENGTH, HEADS))
    actual = run(network, start, q, k, v, None, eta, rate, chunk=chunk, execution=execution)
    check(actual, expected)
    last = np.stack(lasts).reshape(start[1].shape)
    tolerances.assert_close(actual[1].weights[1], last, tolerances.STATE_F64)


@pytest.mark.parametrize("execution", ONLINE)
def test_forgetting_all_clears(execution):
    """alpha = 1, eta = 0 at a token: what follows does not depend on what came before."""
    cut, chunk = 6, 1
    q, k, v = tokens()
    alpha, eta, theta = between(0.0, 0.3), between(0.1, 0.9, seed=3), between(0.0, 0.2, seed=4)
    alpha[:, cut - 1], eta[:, cut - 1], theta[:, cut - 1] = 1, 0, 0
    _, cleared = run(
        LINEAR,
        matrices(LINEAR),
        *(x[:, :cut] for x in (q, k, v, alpha, eta, theta)),
        chunk=chunk,
        execution=execution,
    )
    np.testing.assert_array_less(np.abs(cleared.weights[0]), 1e-30)
    y, state = run(
        LINEAR, matrices(LINEAR), q, k, v, alpha, eta, theta, chunk=chunk, execution=execution
    )
    rest_y, rest = run(
        LINEAR,
        ZERO,
        *(x[:, cut:] for x in (q, k, v, alpha, eta, theta)),
        chunk=chunk,
        execution=execution,
    )
    tolerances.assert_close(y[:, cut:], rest_y, tolerances.OUTPUT_F64)
    tolerances.assert_close(state.weights[0], rest.weights[0], tolerances.STATE_F64)


@pytest.mark.parametrize("execution", EVERY)
def test_forgetting_all_leaves_the_momentum(execution):
    """alpha = 1 everywhere: M_t = S_t, so the memory's end is the momentum's end."""
    q, k, v = tokens()
    ones = np.ones((BATCH, LENGTH, HEADS))
    eta, theta = between(0.1, 0.9), between(0.01, 0.1, seed=3)
    _, state = run(
        LINEAR, matrices(LINEAR), q, k, v, ones, eta, theta, chunk=4, execution=execution
    )
    tolerances.assert_close(state.weights, state.momentum, tolerances.STATE_F64)
    assert max(np.abs(leaf).max() for leaf in state.momentum) > 0.01


@pytest.mark.parametrize("execution", EVERY)
@pytest.mark.parametrize("depth", [1, 3])
def test_no_step_never_writes(execution, depth):
    """theta = 0, S_0 = 0: keys and values leave no trace; M only decays."""
    network = MLPNetwork("mlp", depth, 2)
    q, k, v = tokens()
    start = matrices(network)
    zeros, eta, alpha = (
        np.zeros((BATCH, LENGTH, HEADS)),
        between(0.1, 0.9),
        between(0.0, 0.3, seed=3),
    )
    options = {"chunk": 4, "execution": execution}
    y, kept = run(network, start, q, k, v, None, eta, zeros, **options)
    other, _ = run(network, start, q, -k, 3 * v, None, eta, zeros, **options)
    np.testing.assert_array_equal(y, other)
    tolerances.assert_close(kept.weights, start, tolerances.STATE_F64)

    x = q
    for layer, matrix in enumerate(start):
        x = x / (1 + np.exp(-x)) if layer else x
        x = np.einsum("bthi,bhij->bthj", x, matrix)
    tolerances.assert_close(y, x, tolerances.OUTPUT_F64)

    _, decayed = run(network, start, q, k, v, alpha, eta, zeros, **options)
    keep = np.prod(1 - alpha, axis=1)[:, :, None, None]
    tolerances.assert_close(
        decayed.weights, tuple(matrix * keep for matrix in start), tolerances.STATE_F64
    )


@pytest.mark.parametrize("execution", ["chunked", "token anchor"])
def test_no_step_at_depth_one_online(execution):
    """theta = 0 in the exact online form."""
    q, k, v = tokens()
    zeros, eta = np.zeros((BATCH, LENGTH, HEADS)), between(0.1, 0.9)
    start = matrices(LINEAR)
    y, state = run(LINEAR, start, q, k, v, None, eta, zeros, chunk=1, execution=execution)
    expected = np.einsum("bthi,bhij->bthj", q, start[0])
    tolerances.assert_close((y, state.weights), (expected, start), tolerances.OUTPUT_F64)
