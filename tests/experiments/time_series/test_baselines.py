"""The baselines against their formulas, and what their forecasts depend on."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from experiments.time_series.baselines import (
    AttentionForecaster,
    DLinear,
    FrozenMemory,
    RLinear,
    moving_average,
)
from tests.tolerances import OUTPUT_F32, assert_close
from titans_jax.models.forecaster import Forecaster, ForecasterConfig

PHASE = jnp.asarray([0, 5], jnp.int32)


def windows() -> jax.Array:
    """Two windows of three variates."""
    return 3 + jax.random.normal(jax.random.key(0), (2, 32, 3), jnp.float32)


def test_moving_average_repeats_the_ends():
    x = np.asarray(windows()).swapaxes(1, 2)
    padded = np.concatenate([x[..., :1].repeat(12, -1), x, x[..., -1:].repeat(12, -1)], axis=-1)
    expected = np.stack([padded[..., i : i + 25].mean(axis=-1) for i in range(32)], axis=-1)
    assert_close(moving_average(jnp.asarray(x)), expected, OUTPUT_F32)


def test_dlinear_is_a_map_of_the_trend_and_one_of_the_rest():
    model, x = DLinear(32, 4, rngs=nnx.Rngs(0)), windows().swapaxes(1, 2)
    trend = moving_average(x)
    maps = [(m.kernel[...], m.bias[...]) for m in (model.trend, model.seasonal)]
    expected = trend @ maps[0][0] + maps[0][1] + (x - trend) @ maps[1][0] + maps[1][1]
    assert_close(model(windows(), PHASE), expected.swapaxes(1, 2), OUTPUT_F32)


def test_rlinear_follows_scale_and_shift_and_may_have_a_cycle():
    model, x = RLinear(32, 4, rngs=nnx.Rngs(0)), windows()
    assert_close(model(100 * x + 7, PHASE), 100 * model(x, PHASE) + 7, OUTPUT_F32)
    assert model.window_norm.cycle is None
    cyclic = RLinear(32, 4, season=24, variates=3, rngs=nnx.Rngs(0))
    assert_close(cyclic(x, PHASE), model(x, PHASE), OUTPUT_F32)  # the cycle starts at zero
    assert cyclic.window_norm.cycle is not None
    assert cyclic.window_norm.cycle[...].shape == (24, 3)


@pytest.mark.parametrize("inverted", [False, True])
def test_attention_is_over_patches_of_a_variate_or_over_variates(inverted):
    model = AttentionForecaster(
        32, 4, inverted=inverted, dim=8, num_layers=1, num_heads=2, hidden=8, rate=0.2, rngs=nnx.Rngs(0)
    )  # fmt: skip
    forward = nnx.jit(lambda model, x: model(x, PHASE))
    x, order = windows(), jnp.asarray([2, 0, 1])
    found = forward(model, x)
    assert found.shape == (2, 4, 3)
    # Variates have no order.
    assert_close(forward(model, x[..., order]), found[..., order], OUTPUT_F32)
    change = jnp.abs(forward(model, x.at[:, ::2, 1].add(1.0)) - found).max(axis=(0, 1))
    np.testing.assert_array_equal(change > 1e-4, [inverted, True, inverted])


def test_a_frozen_memory_passes_nothing_from_variate_to_variate():
    config = ForecasterConfig(
        lookback=32, horizon=4, variates=3, embedding="variates", bidirectional=True, dim=8, feed_forward=8
    )  # fmt: skip
    model = FrozenMemory(Forecaster(config, rngs=nnx.Rngs(0)))
    forward = nnx.jit(lambda model, x: model(x, PHASE))
    x = windows()
    change = jnp.abs(forward(model, x.at[:, ::2, 1].add(1.0)) - forward(model, x))
    np.testing.assert_array_equal(change.max(axis=(0, 1)) > 0, [False, True, False])
