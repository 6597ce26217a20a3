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


@pytest.mark.parametrize("lookback", [48, 96, 192, 336, 720])
def test_patches_of_the_published_look_backs_stay(lookback):
    config = ForecasterConfig(lookback=lookback)
    assert (config.patch, config.stride) == (48, 48)


@pytest.mark.parametrize(
    ("lookback", "chosen"),
    [(1, (1, 1)), (7, (7, 7)), (14, (14, 14)), (24, (24, 24)), (53, (27, 26)), (168, (42, 42)), (512, (52, 46))],
)  # fmt: skip
def test_patches_fit_any_look_back(lookback, chosen):
    config = ForecasterConfig(lookback=lookback, horizon=3, dim=4, feed_forward=4)
    assert (config.patch, config.stride) == chosen
    assert (config.tokens - 1) * config.stride + config.patch == lookback  # the last row is seen
    x = jax.ShapeDtypeStruct((2, lookback, 1), jnp.float32)
    found = nnx.eval_shape(lambda x: Forecaster(config, rngs=nnx.Rngs(0))(x, PHASE), x)
    assert found.shape == (2, 3, 1)


@pytest.mark.parametrize(
    ("fields", "chosen"),
    [
        ({"lookback": 96, "patch": 96}, (96, 48)),  # what is not given stays 48 where that fits
        ({"lookback": 96, "stride": 24}, (48, 24)),
        ({"lookback": 24, "stride": 12}, (12, 12)),
        ({"lookback": 24, "patch": 6}, (6, 6)),
    ],
)
def test_what_is_not_given_of_a_patch_is_chosen(fields, chosen):
    config = ForecasterConfig(**fields)
    assert (config.patch, config.stride) == chosen


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
