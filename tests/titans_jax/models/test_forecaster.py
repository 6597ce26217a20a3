"""The forecaster: what a forecast depends on, and what a stream of patches leaves in the memory."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from tests.tolerances import OUTPUT_F32, STATE_F32, assert_close
from titans_jax.models.forecaster import Forecaster, ForecasterConfig

SMALL = {
    "lookback": 8,
    "horizon": 3,
    "variates": 3,
    "patch": 4,
    "stride": 2,
    "dim": 8,
    "feed_forward": 8,
}
PHASE = jnp.asarray([0, 3], jnp.int32)


def small_forecaster(**fields) -> Forecaster:
    """A forecaster whose memory has a say: the head starts at full size and the cycle is no longer zero."""
    model = Forecaster(ForecasterConfig(**{**SMALL, **fields}), rngs=nnx.Rngs(0))
    model.head.kernel[...] = 10 * model.head.kernel[...]
    if model.window_norm.cycle is not None:
        cycle = model.window_norm.cycle
        cycle[...] = jax.random.normal(jax.random.key(2), cycle[...].shape, jnp.float32)
    return model


def windows(batch: int = 2) -> jax.Array:
    """Windows of three variates."""
    return jax.random.normal(jax.random.key(1), (batch, 8, 3), jnp.float32)


@nnx.jit
def forecast(model: Forecaster, x: jax.Array, **arguments) -> jax.Array:
    """The forecast, compiled."""
    return model(x, PHASE, **arguments)


@nnx.jit
def read(model: Forecaster, x: jax.Array, state) -> tuple:
    """The memories after windows whose cycle does not matter, compiled."""
    return model.read(x, jnp.zeros(x.shape[:2], jnp.int32), state)


def moved(model: Forecaster, variate: int) -> np.ndarray:
    """Which variates' forecasts change when one variate's rows do."""
    x = windows()
    other = x.at[:, ::2, variate].add(1.0)
    change = jnp.abs(forecast(model, other) - forecast(model, x))
    return np.asarray(change.max(axis=(0, 1)) > 1e-4)


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"horizon": 0}, "horizon.*0"),
        ({"season": -1}, "season.*-1"),
        ({"embedding": "rows"}, "embedding.*'rows'"),
        ({"mixer": "mamba"}, "mixer.*'mamba'"),
        ({"dropout": 1.0}, "dropout.*1.0"),
        ({"patch": 3}, r"patch, stride.*\(3, 2\)"),
        ({"patch": 10}, r"patch, stride.*\(10, 2\)"),
    ],
)
def test_refused_configs(fields, said):
    with pytest.raises(ValueError, match=said):
        ForecasterConfig(**{**SMALL, **fields})


def test_patches_keep_variates_apart():
    model = small_forecaster(season=4)
    assert forecast(model, windows()).shape == (2, 3, 3)
    np.testing.assert_array_equal(moved(model, 1), [False, True, False])
    with pytest.raises(ValueError, match=r"\[B, 8, 3\], got shape \(2, 7, 3\)"):
        model(windows()[:, 1:], PHASE)


def test_variates_as_tokens_see_each_other_in_both_directions_if_asked():
    one_way = small_forecaster(embedding="variates")
    np.testing.assert_array_equal(moved(one_way, 1), [False, True, True])
    both_ways = small_forecaster(embedding="variates", bidirectional=True)
    np.testing.assert_array_equal(moved(both_ways, 1), [True, True, True])


def test_a_shift_of_the_window_shifts_the_forecast():
    model = small_forecaster(season=4)
    shift = jnp.asarray([5.0, -2.0, 0.0], jnp.float32)
    assert_close(forecast(model, windows() + shift), forecast(model, windows()) + shift, OUTPUT_F32)


def test_the_cycle_is_given_back_at_the_rows_that_follow():
    model = small_forecaster(season=5)
    model.linear.kernel[...] = jnp.zeros_like(model.linear.kernel[...])
    model.head.kernel[...] = jnp.zeros_like(model.head.kernel[...])
    x = windows()
    rows = (np.asarray(PHASE)[:, None] + 8 + np.arange(3)) % 5
    std = jnp.sqrt(x.var(axis=1, keepdims=True) + 1e-5)
    expected = model.window_norm.cycle[...][rows] * std + x.mean(axis=1, keepdims=True)
    assert_close(forecast(model, x), expected, OUTPUT_F32)


def test_dropout_needs_a_key():
    model = small_forecaster()
    dropped = [forecast(model, windows(), key=jax.random.key(i)) for i in range(2)]
    assert float(jnp.abs(dropped[0] - dropped[1]).max()) > 1e-3


def test_a_stream_read_in_pieces_is_the_stream_and_the_state_matters():
    model = small_forecaster()
    x = jax.random.normal(jax.random.key(3), (2, 4, 8, 3), jnp.float32)
    start = model.init_state(6)
    whole = read(model, x, start)
    pieces = read(model, x[:, 2:], read(model, x[:, :2], start))
    assert_close(pieces, whole, STATE_F32)
    change = forecast(model, windows(), state=whole) - forecast(model, windows(), state=start)
    assert float(jnp.abs(change).max()) > 1e-3


@pytest.mark.parametrize("fields", [{"embedding": "variates"}, {"bidirectional": True}])
def test_what_has_no_order_in_time_cannot_stream(fields):
    model = nnx.eval_shape(
        lambda: Forecaster(ForecasterConfig(**SMALL, **fields), rngs=nnx.Rngs(0))
    )
    with pytest.raises(
        ValueError, match="a stream needs embedding='patches' and bidirectional=False"
    ):
        model.init_state(1)
