"""One token's gradient: by hand, layer by layer, against ``jax.grad``; its bound; and what a rule refuses."""

import jax
import jax.numpy as jnp
import pytest

from tests import tolerances
from tests.titans_jax.memory.cases import gated_mlp
from tests.titans_jax.memory.test_networks import ALL, TOKENS, setup
from titans_jax.memory.networks import MLPNetwork, apply_network
from titans_jax.memory.rule import Rule, gradient_factors, surprise


@pytest.mark.parametrize(("kind", "depth"), ALL)
def test_rank_one_factors_are_the_gradients(kind, depth):
    """a_l[i] g_l[i]^T is d ||M(k_i) - v_i||^2 / d layer l, for every token and layer."""
    network, weights, gain, k, v = setup(kind, depth)
    rule = Rule(network, gain=gain)
    inputs, errors = gradient_factors(rule, weights, k, v)

    def loss(weights, key, value):
        return jnp.sum((apply_network(network, weights, gain, key[None])[0] - value) ** 2)

    expected = jax.vmap(jax.grad(loss), (None, 0, 0))(weights, k, v)
    actual = tuple(a[:, :, None] * g[:, None, :] for a, g in zip(inputs, errors, strict=True))
    tolerances.assert_close(actual, expected, tolerances.GRAD_F64)
    for i in range(TOKENS):
        at = jax.tree.map(lambda u, i=i: u[i], expected)
        value, u = surprise(rule, weights, weights, k[i], v[i])
        tolerances.assert_close(u, at, tolerances.GRAD_F64)
        tolerances.assert_close(value, loss(weights, k[i], v[i]), tolerances.OUTPUT_F64)


@pytest.mark.parametrize(("kind", "depth"), ALL)
def test_the_bounded_step(kind, depth):
    """Along its own error a bounded step of theta = 1/2 never passes the minimum: curvature at most 1.

    The curvature of the loss, 2 |J^T e|^2 / |e|^2 with J the Jacobian of M(k), comes from jax.jacobian.
    """
    network, weights, one_gain, k, v = setup(kind, depth)
    exceeded = []
    for scale in (0.1, 1.0, 3.0):  # of keys or gain: curvatures below and above the bound
        gain, keys = (None, scale * k) if one_gain is None else (scale * one_gain, k)
        rule = Rule(network, gain=gain, bound="gradient")
        function = rule.function()
        inputs, errors = gradient_factors(rule, weights, keys, v)
        for i in range(TOKENS):
            key = keys[i]
            error = function(weights, key) - v[i]
            jacobian = jax.jacobian(function)(weights, key)
            pulled = [jnp.einsum("o,oij->ij", error, layer) for layer in jacobian]
            curvature = sum(jnp.sum(p**2) for p in pulled) / jnp.sum(error**2)
            bound = 1.0 if network.linear else max(1.0, float(curvature))
            expected = tuple(2 * p / bound for p in pulled)
            exceeded.append(bool(curvature > 1))
            actual = tuple(jnp.outer(a[i], g[i]) for a, g in zip(inputs, errors, strict=True))
            tolerances.assert_close(actual, expected, tolerances.OUTPUT_F32)  # for the epsilon
            _, bounded = surprise(rule, weights, weights, key, v[i])
            tolerances.assert_close(actual, bounded, tolerances.GRAD_F64)
    assert any(exceeded)
    assert not all(exceeded)


def test_a_perfect_memory_is_not_moved_by_the_bound():
    """No error, no gradient: 0 / 0 nowhere, in the value and in the gradient of it."""
    network, weights, gain, k, _ = setup("mlp", 2)

    def total(k):
        v = jax.lax.stop_gradient(apply_network(network, weights, gain, k))
        _, errors = gradient_factors(Rule(network, bound="gradient"), weights, k, v)
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
        _, errors = gradient_factors(Rule(network, gain=gain), weights, k, v)
        return sum(jnp.sum(g**2) for g in errors)

    assert all(jnp.isfinite(g).all() for g in jax.grad(loss)(weights))


def test_a_function_is_its_own_network():
    assert Rule(gated_mlp).function() is gated_mlp


@pytest.mark.parametrize(("kind", "depth"), [("mlp", 2), ("mlp", 3), ("residual", 2)])
def test_the_bound_by_features_is_the_last_layers_curvature(kind, depth):
    """d z / d last layer has the squared norm |h|^2; a norm's Jacobian along the error comes on top."""
    network, weights, gain, k, v = setup(kind, depth)
    k = 3.0 * k  # features large enough to be bounded
    bounded = gradient_factors(Rule(network, bound="features", gain=gain), weights, k, v)
    free = gradient_factors(Rule(network, gain=gain), weights, k, v)
    for i in range(TOKENS):
        error = apply_network(network, weights, gain, k[i : i + 1])[0] - v[i]
        jacobian = jax.jacobian(
            lambda last, i=i: apply_network(network, (*weights[:-1], last), gain, k[i : i + 1])[0]
        )(weights[-1])
        pulled = jnp.einsum("o,oij->ij", error, jacobian)
        wanted = max(1.0, float(jnp.sum(pulled**2) / jnp.sum(error**2)))
        for bound, plain in zip(bounded[1], free[1], strict=True):
            tolerances.assert_close(wanted * bound[i], plain[i], tolerances.OUTPUT_F32)


def test_what_a_rule_refuses():
    network = MLPNetwork("mlp", 2, 2)
    for name in ("anchor", "read", "bound"):
        with pytest.raises(ValueError, match=f"{name} must be one of .*'sometimes'"):
            Rule(network, **{name: "sometimes"})
    with pytest.raises(ValueError, match=r"anchor must be 'chunk' .*got 'token'"):
        Rule(gated_mlp, anchor="token")
    with pytest.raises(ValueError, match=r"bound must be 'gradient' or 'none' .*got 'features'"):
        Rule(gated_mlp, bound="features")
