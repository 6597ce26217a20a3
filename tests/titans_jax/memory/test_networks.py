"""The memory networks, and the gradients of their layers written out by hand, against jax.grad."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests import tolerances
from tests.titans_jax.memory.cases import gated_mlp
from titans_jax.memory.networks import (
    MLPNetwork,
    apply_network,
    gradient_factors,
    network_function,
    surprise,
)

TOKENS, WIDTH = 5, 4
ALL = [(kind, depth) for kind in ("mlp", "residual") for depth in (1, 2, 3, 4)]


def setup(kind, depth, dtype=jnp.float64):
    """A network, its weights and gain, keys and values."""
    network = MLPNetwork(kind, depth, 3)
    rng = np.random.default_rng(depth)
    weights = tuple(
        jnp.asarray(rng.normal(size=shape) / shape[0] ** 0.5, dtype)
        for shape in network.shapes(WIDTH)
    )
    gain = (
        jnp.asarray(rng.uniform(0.5, 1.5, size=(1, WIDTH)), dtype) if kind == "residual" else None
    )
    k, v = jnp.asarray(rng.normal(size=(2, TOKENS, WIDTH)), dtype)
    return network, weights, gain, k, v


@pytest.mark.parametrize(("kind", "depth"), ALL)
def test_application(kind, depth):
    """A plain MLP with SiLU between its layers; residual: x + gain * LayerNorm(MLP(x))."""
    network, weights, gain, x, _ = setup(kind, depth)
    z = np.asarray(x)
    for layer, matrix in enumerate(weights):
        z = (z / (1 + np.exp(-z)) if layer else z) @ np.asarray(matrix)
    if kind == "residual":
        normal = (z - z.mean(-1, keepdims=True)) / np.sqrt(z.var(-1, keepdims=True) + 1e-6)
        z = np.asarray(x) + np.asarray(gain) * normal
    tolerances.assert_close(apply_network(network, weights, gain, x), z, tolerances.OUTPUT_F64)
    one = network_function(network, gain)(weights, x[2])
    tolerances.assert_close(one, z[2], tolerances.OUTPUT_F64)


@pytest.mark.parametrize(("kind", "depth"), ALL)
def test_rank_one_factors_are_the_gradients(kind, depth):
    """a_l[i] g_l[i]^T is d ||M(k_i) - v_i||^2 / d layer l, for every token and layer."""
    network, weights, gain, k, v = setup(kind, depth)
    inputs, errors = gradient_factors(network, weights, gain, k, v)

    def loss(weights, key, value):
        return jnp.sum((apply_network(network, weights, gain, key[None])[0] - value) ** 2)

    expected = jax.vmap(jax.grad(loss), (None, 0, 0))(weights, k, v)
    actual = tuple(a[:, :, None] * g[:, None, :] for a, g in zip(inputs, errors, strict=True))
    tolerances.assert_close(actual, expected, tolerances.GRAD_F64)
    function = network_function(network, gain)
    for i in range(TOKENS):
        at = jax.tree.map(lambda u, i=i: u[i], expected)
        tolerances.assert_close(surprise(function, weights, k[i], v[i]), at, tolerances.GRAD_F64)


@pytest.mark.parametrize(("kind", "depth"), ALL)
def test_the_bounded_step(kind, depth):
    """Along its own error a bounded step of theta = 1/2 never passes the minimum: curvature at most 1.

    The curvature of the loss, 2 |J^T e|^2 / |e|^2 with J the Jacobian of M(k), comes from jax.jacobian.
    """
    network, weights, one_gain, k, v = setup(kind, depth)
    exceeded = []
    for scale in (0.1, 1.0, 3.0):  # of keys or gain: curvatures below and above the bound
        gain, keys = (None, scale * k) if one_gain is None else (scale * one_gain, k)
        function = network_function(network, gain)
        inputs, errors = gradient_factors(network, weights, gain, keys, v, bound_step=True)
        for i in range(TOKENS):
            key = keys[i]
            error = function(weights, key) - v[i]
            jacobian = jax.jacobian(function)(weights, key)
            pulled = [jnp.einsum("o,oij->ij", error, layer) for layer in jacobian]
            curvature = sum(jnp.sum(p**2) for p in pulled) / jnp.sum(error**2)
            expected = tuple(2 * p / max(1.0, float(curvature)) for p in pulled)
            exceeded.append(bool(curvature > 1))
            actual = tuple(jnp.outer(a[i], g[i]) for a, g in zip(inputs, errors, strict=True))
            tolerances.assert_close(actual, expected, tolerances.OUTPUT_F32)  # for the epsilon
            bounded = surprise(function, weights, key, v[i], bound_step=True)
            tolerances.assert_close(actual, bounded, tolerances.GRAD_F64)
    assert any(exceeded)
    assert not all(exceeded)


def test_a_perfect_memory_is_not_moved_by_the_bound():
    """No error, no gradient: 0 / 0 nowhere, in the value and in the gradient of it."""
    network, weights, gain, k, _ = setup("mlp", 2)

    def total(k):
        v = jax.lax.stop_gradient(apply_network(network, weights, gain, k))
        _, errors = gradient_factors(network, weights, gain, k, v, bound_step=True)
        return sum(jnp.sum(g) for g in errors), errors

    (_, errors), gradient = jax.value_and_grad(total, has_aux=True)(k)
    assert not any(jnp.any(g) for g in errors)
    assert jnp.isfinite(gradient).all()


@pytest.mark.parametrize("kind", ["mlp", "residual"])
def test_equal_features_have_a_finite_gradient(kind):
    """LayerNorm of a constant: the variance is zero and nothing is divided by it."""
    network, weights, gain, k, v = setup(kind, 2, jnp.float32)
    weights = (weights[0], jnp.zeros_like(weights[1]))

    def loss(weights):
        _, errors = gradient_factors(network, weights, gain, k, v)
        return sum(jnp.sum(g**2) for g in errors)

    assert all(jnp.isfinite(g).all() for g in jax.grad(loss)(weights))


def test_shapes():
    assert MLPNetwork("mlp", 1, 4).shapes(3) == ((3, 3),)
    assert MLPNetwork("residual", 3, 2).shapes(3) == ((3, 6), (6, 6), (6, 3))


def test_a_function_is_its_own_network():
    assert network_function(gated_mlp, None) is gated_mlp
