"""Online mode: every forecast is the one that the rows before it give, and no other."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from tests.tolerances import OUTPUT_F32, STATE_F32, assert_close
from titans_jax.forecasting.streaming import forecast, observe, online_errors, start_stream
from titans_jax.forecasting.training import evaluate
from titans_jax.models.forecaster import Forecaster, ForecasterConfig

LOOKBACK, HORIZON, STRIDE, SEASON = 4, 2, 2, 3
CONFIG = ForecasterConfig(
    lookback=LOOKBACK, horizon=HORIZON, variates=2, season=SEASON, patch=2, stride=STRIDE, dim=8, feed_forward=8
)  # fmt: skip
ROWS = 20
STARTS = np.arange(9, 15)
SERIES = jax.random.normal(jax.random.key(0), (ROWS, 2), jnp.float32)
PHASE = jnp.arange(ROWS, dtype=jnp.int32) % SEASON
READ = nnx.jit(Forecaster.read)
FORECAST = nnx.jit(lambda model, x, phase, state: model(x, phase, state=state))


@functools.cache
def forecaster() -> Forecaster:
    model = Forecaster(CONFIG, rngs=nnx.Rngs(0))
    model.head.kernel[...] = 10 * model.head.kernel[...]
    cycle = model.window_norm.cycle
    assert cycle is not None
    cycle[...] = jax.random.normal(jax.random.key(1), cycle[...].shape, jnp.float32)
    return model


@functools.cache
def memory_at(start: int) -> Any:
    """The memory that has read the first patches of the windows at start - 2, start - 4, .., one at a time."""
    model, before = forecaster(), start - STRIDE
    if before < 0:
        return model.init_state(2)
    known = SERIES[: start + LOOKBACK - 1]
    window = known[before : before + LOOKBACK][None, None]
    return READ(model, window, PHASE[before][None, None], memory_at(before))


@functools.cache
def by_hand(start: int) -> jax.Array:
    """The forecast of the window at a row, from its rows and those before it."""
    window = SERIES[start : start + LOOKBACK][None]
    return FORECAST(forecaster(), window, PHASE[start][None], memory_at(start))[0]


def test_online_errors_are_those_of_forecasts_by_hand():
    errors = [by_hand(s) - SERIES[s + LOOKBACK : s + LOOKBACK + HORIZON] for s in STARTS]
    found = online_errors(forecaster(), SERIES, PHASE, STARTS, "learning")
    stacked = jnp.stack(errors)
    expected = (jnp.mean(jnp.square(stacked)), jnp.mean(jnp.abs(stacked)))
    assert_close(jnp.asarray(found), jnp.asarray(expected), OUTPUT_F32)


def test_a_memory_started_anew_in_every_window_is_the_protocol():
    found = online_errors(forecaster(), SERIES, PHASE, STARTS, "window")
    shape = {"lookback": LOOKBACK, "horizon": HORIZON}
    expected = evaluate(forecaster(), SERIES, PHASE, STARTS, **shape)
    assert_close(jnp.asarray(found), jnp.asarray(expected), OUTPUT_F32)
    assert online_errors(forecaster(), SERIES, PHASE, STARTS, "learning") != found


def test_rows_in_pieces_are_the_stream_and_give_its_forecast():
    model = forecaster()
    graph, parameters = nnx.split(model)
    end = int(STARTS[-1]) + LOOKBACK
    whole = observe(graph, parameters, start_stream(model), SERIES[:end], PHASE[:end])
    pieces = start_stream(model)
    for first, last in ((0, 7), (7, end)):
        pieces = observe(graph, parameters, pieces, SERIES[first:last], PHASE[first:last])
    assert_close(pieces, whole, STATE_F32)
    assert_close(
        nnx.jit(forecast)(model, whole, PHASE[end - 1]), by_hand(int(STARTS[-1])), OUTPUT_F32
    )


@pytest.mark.parametrize(
    ("starts", "mode", "said"),
    [
        (STARTS[::2], "learning", "starts must be rows in order, one apart"),
        (STARTS[:0], "learning", "starts must be rows in order, one apart"),
        (STARTS, "asleep", "mode.*'asleep'"),
    ],
)
def test_refused_arguments(starts, mode, said):
    with pytest.raises(ValueError, match=said):
        online_errors(forecaster(), SERIES, PHASE, starts, mode)
