"""Training: no row after the training part is seen, validation alone chooses, and every window counts."""

import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from tests.tolerances import OUTPUT_F32, assert_close
from titans_jax.forecasting import training
from titans_jax.forecasting.training import Errors, TrainingConfig, evaluate, loss_of, train
from titans_jax.forecasting.windows import Parts, window_starts

LOOKBACK, HORIZON = 6, 2
SHAPE = {"lookback": LOOKBACK, "horizon": HORIZON}
PARTS = Parts(60, 80, 101)
STARTS = window_starts(PARTS, **SHAPE)
PHASE = jnp.zeros(101, jnp.int32)
QUICK = TrainingConfig(batch_size=4, steps_per_epoch=5, epochs=3, average=0.5)


class Linear(nnx.Module):
    """The smallest forecaster: one linear map."""

    def __init__(self, seed: int = 0):
        self.map = nnx.Linear(LOOKBACK, HORIZON, rngs=nnx.Rngs(seed))

    def __call__(self, x, phase, *, key=None):
        del phase, key
        return jnp.swapaxes(self.map(jnp.swapaxes(x, 1, 2)), 1, 2)


def waves() -> np.ndarray:
    """Two waves with noise, ``[101, 2]``."""
    rows = np.arange(101)[:, None]
    noise = 0.3 * np.random.default_rng(0).normal(size=(101, 2))
    return (np.sin(rows / np.asarray([2.0, 5.0])) + noise).astype(np.float32)


def trained(series, config=QUICK, valid=STARTS.valid, seed=0):
    return train(
        Linear(), config, jnp.asarray(series), PHASE, STARTS.train, valid, seed=seed, **SHAPE
    )


def kernel(result) -> np.ndarray:
    return np.asarray(result.model.map.kernel[...])


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"loss": "huber"}, "loss.*'huber'"),
        ({"schedule": "step"}, "schedule.*'step'"),
        ({"batch_size": 0}, "batch_size.*0"),
        ({"learning_rate": 0.0}, "learning_rate.*0.0"),
        ({"learning_rate": np.inf}, "learning_rate.*inf"),
        ({"average": 1.0}, "average.*1.0"),
        ({"context": -1}, "context.*-1"),
        ({"weight_decay": -1.0}, "weight_decay.*-1.0"),
    ],
)
def test_refused_configs(fields, said):
    with pytest.raises(ValueError, match=said):
        TrainingConfig(**fields)


def test_errors_count_every_window_once(monkeypatch):
    monkeypatch.setattr(training, "EVALUATION_BATCH", 8)
    series, model, starts = waves(), Linear(), STARTS.test  # 20 windows: two batches and a half
    assert len(starts) == 20
    weights, bias = (np.asarray(p[...], np.float64) for p in (model.map.kernel, model.map.bias))
    errors = []
    for start in starts:
        x = series[start : start + LOOKBACK].T.astype(np.float64)
        y = series[start + LOOKBACK : start + LOOKBACK + HORIZON].T
        errors.append(x @ weights + bias - y)
    found = evaluate(model, jnp.asarray(series), PHASE, starts, **SHAPE)
    expected = (np.mean(np.square(errors)), np.mean(np.abs(errors)))
    assert_close(jnp.asarray(found), jnp.asarray(expected), OUTPUT_F32)


def test_a_report_after_every_epoch(monkeypatch):
    scores = iter([5.0, 3.0, 4.0])
    monkeypatch.setattr(training, "evaluate", lambda *a, **k: Errors(next(scores), 1.0))
    reports: list[training.Progress] = []
    series = jnp.asarray(waves())
    parts = (STARTS.train, STARTS.valid)
    train(Linear(), QUICK, series, PHASE, *parts, report=reports.append, **SHAPE)
    assert [(r.epoch, r.epochs, r.errors.mse, r.best) for r in reports] == [
        (1, 3, 5.0, True), (2, 3, 3.0, True), (3, 3, 4.0, False),
    ]  # fmt: skip
    assert all(0 < r.loss < 10 and 0 < r.seconds < 600 for r in reports)
    said = str(reports[1]._replace(loss=0.25, seconds=1.26))
    assert said == (
        "epoch 2/3: training loss 0.2500, validation MSE 3.0000, MAE 1.0000, best so far, 1.3 s"
    )
    assert str(reports[2]._replace(loss=0.25, errors=None, seconds=0.0)) == (
        "epoch 3/3: training loss 0.2500, 0.0 s"
    )


def test_losses():
    error = jnp.asarray([1.0, -3.0])
    assert [float(loss_of(error, kind)) for kind in ("mse", "mae", "both")] == [5.0, 2.0, 3.5]


def test_training_sees_its_part_alone_and_the_test_part_nobody():
    series = waves()
    other = series.copy()
    other[PARTS.train :] = 1e3
    for valid in (STARTS.valid, STARTS.valid[:0]):  # of a single epoch there is nothing to choose
        single = dataclasses.replace(QUICK, epochs=1)
        results = [trained(s, single, valid=valid) for s in (series, other)]
        np.testing.assert_array_equal(kernel(results[0]), kernel(results[1]))
        assert (kernel(results[0]) != np.asarray(Linear().map.kernel[...])).all()
        assert len(results[0].errors) == (1 if len(valid) else 0)
    other = series.copy()
    other[PARTS.valid :] = 1e3
    results = [trained(s) for s in (series, other)]
    np.testing.assert_array_equal(kernel(results[0]), kernel(results[1]))
    assert results[0].errors == results[1].errors


def test_the_model_of_the_best_epoch_is_kept():
    result = trained(waves(), dataclasses.replace(QUICK, learning_rate=0.3, epochs=8))
    sums = [sum(errors) for errors in result.errors]
    assert sums[result.best] == min(sums)
    assert sums[0] != sums[-1]
    found = evaluate(result.model, jnp.asarray(waves()), PHASE, STARTS.valid, **SHAPE)
    assert_close(jnp.asarray(found), jnp.asarray(result.errors[result.best]), OUTPUT_F32)


def test_training_stops_when_patience_ends(monkeypatch):
    scores = iter([5.0, 3.0, 4.0, 3.5, 1.0])
    monkeypatch.setattr(training, "evaluate", lambda *a, **k: Errors(next(scores), 0.0))
    result = trained(waves(), dataclasses.replace(QUICK, epochs=5, patience=2))
    assert (result.best, [e.mse for e in result.errors]) == (1, [5.0, 3.0, 4.0, 3.5])


def test_a_seed_is_a_training():
    kernels = [kernel(trained(waves(), seed=seed)) for seed in (0, 0, 1)]
    np.testing.assert_array_equal(kernels[0], kernels[1])
    assert (kernels[0] != kernels[2]).any()


def test_a_loss_that_is_not_finite_stops_training():
    series = waves()
    series[30] = np.inf
    with pytest.raises(FloatingPointError, match=r"epoch 1 is .*lower learning_rate"):
        trained(series)
