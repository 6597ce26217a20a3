"""`TitansForecaster` as its users call it: tables in, tables out, and a clear word where that cannot be."""

import functools

import numpy as np
import pandas as pd
import pytest

from tests.titans_jax.forecasting.tables import small_table
from tests.tolerances import OUTPUT_F64, assert_close
from titans_jax.forecasting import TitansForecaster, TrainingConfig
from titans_jax.inference.pretrained import write_tensors

NETWORK = {"patch": 4, "stride": 4, "dim": 4, "feed_forward": 4}
TRAINING = TrainingConfig(epochs=1, steps_per_epoch=2, batch_size=4, context=2)


def unfitted(**arguments) -> TitansForecaster:
    fields = {"horizon": 3, "lookback": 8, "network": NETWORK, "training": TRAINING, **arguments}
    return TitansForecaster(**fields)


def dated_table() -> pd.DataFrame:
    """A hundred rows with a third column that never moves."""
    return small_table(100).assign(still=7.0)


@functools.cache
def fitted_file(folder) -> str:
    """A forecaster fitted to the first eighty rows, as a file."""
    path = folder / "forecaster.safetensors"
    unfitted().fit(dated_table()[:80]).save(path)
    return str(path)


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    return fitted_file(tmp_path_factory.mktemp("forecaster"))


def test_forecasts_follow_the_table_in_its_units(saved):
    forecaster = TitansForecaster.load(saved)
    assert forecaster.columns_ == ("load", "heat", "still")
    assert forecaster.errors_ is not None
    assert np.isfinite(forecaster.errors_).all()
    table = dated_table()
    found = forecaster.predict(table[:80])
    assert list(found.columns) == ["load", "heat", "still"]
    np.testing.assert_array_equal(found.index, table["date"][80:83])
    assert (abs(found["heat"] - 20) < 10).all()
    np.testing.assert_allclose(found["still"], 7.0, atol=0.1)
    # Only the look-back counts, and of it every row.
    pd.testing.assert_frame_equal(forecaster.predict(table[72:80]), found)
    other = table[:80].copy()
    other.loc[72, "load"] += 1
    assert (forecaster.predict(other)["load"] != found["load"]).all()


def test_standardisation_is_by_the_training_rows(saved):
    values = dated_table()[["load", "heat", "still"]].to_numpy()[
        :64
    ]  # 80 less the fifth that validates
    scaler = TitansForecaster.load(saved).scaler_
    assert_close(scaler.mean, values.mean(axis=0), OUTPUT_F64)
    assert_close(scaler.std, np.asarray([*values.std(axis=0)[:2], 1.0]), OUTPUT_F64)


def test_rows_observed_in_pieces_and_through_a_file_are_the_rows(saved, tmp_path):
    table = dated_table()
    at_once = TitansForecaster.load(saved)
    before = at_once.predict()
    at_once.observe(table[80:])
    pieces = TitansForecaster.load(saved).observe(table[80:90])
    pieces.save(tmp_path / "later.safetensors")
    pieces = TitansForecaster.load(tmp_path / "later.safetensors").observe(table[90:])
    pd.testing.assert_frame_equal(pieces.predict(), at_once.predict())
    np.testing.assert_array_equal(at_once.predict().index, before.index + pd.Timedelta("20h"))
    # The memory holds more than the look-back: a table forecast by itself starts from the learned memory.
    assert (at_once.predict(table)["load"] != at_once.predict()["load"]).all()


def test_rows_must_follow(saved):
    table, forecaster = dated_table(), TitansForecaster.load(saved)
    with pytest.raises(ValueError, match=r"'date', row 0: .* does not follow .*T07.*: it must be"):
        forecaster.observe(table[81:])
    with pytest.raises(ValueError, match=r"the rows are .* apart"):
        forecaster.observe(table[80::2])
    with pytest.raises(ValueError, match="must have dates if and only if"):
        forecaster.observe(table[80:].drop(columns="date"))
    with pytest.raises(ValueError, match=r"columns must be \['load', 'heat', 'still'\]"):
        forecaster.observe(table[80:][["date", "load", "heat"]])
    with pytest.raises(ValueError, match="7 rows, but a forecast sees lookback=8"):
        forecaster.predict(table[:7])


def test_arrays_give_arrays_and_no_validation_no_errors():
    values = dated_table()[["load", "heat", "still"]].to_numpy()[:80]
    network = {"embedding": "variates", "dim": 4, "feed_forward": 4}
    training = TrainingConfig(epochs=1, steps_per_epoch=2)
    forecaster = unfitted(valid_fraction=0, network=network, training=training).fit(values)
    assert forecaster.errors_ is None
    found = forecaster.predict()
    assert isinstance(found, np.ndarray)
    assert found.shape == (3, 3)
    np.testing.assert_array_equal(found, forecaster.predict(values))
    with pytest.raises(ValueError, match="a stream needs embedding='patches'"):
        forecaster.observe(values)


@pytest.mark.parametrize(
    ("arguments", "rows", "said"),
    [
        ({}, 10, "the table has 10 rows, but lookback=8 and horizon=3 need at least 11"),
        ({"horizon": 200}, 100, "100 rows, .*horizon=200 need at least 208.*a shorter horizon"),
        ({}, 14, "the valid part has 2 rows, .*at least 3"),
        ({"training": TrainingConfig(context=50)}, 60, "context=50 patches are 200 rows"),
    ],
)
def test_too_short_tables_are_refused_before_training(arguments, rows, said):
    with pytest.raises(ValueError, match=said):
        unfitted(**arguments).fit(small_table(rows))


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"horizon": 0}, "horizon.*0"),
        ({"lookback": 9}, "patch, stride"),
        ({"season": -2}, "season.*-2"),
        ({"valid_fraction": 1.0}, "valid_fraction.*1.0"),
        ({"network": {"horizon": 3}}, r"network.*\['horizon'\]"),
        ({"network": {"depth": 3}}, r"network.*\['depth'\]"),
    ],
)
def test_refused_arguments(arguments, said):
    with pytest.raises(ValueError, match=said):
        unfitted(**arguments)


def test_what_needs_a_fit_says_so(tmp_path):
    for use in (
        lambda f: f.predict(),
        lambda f: f.observe(small_table(9)),
        lambda f: f.save(tmp_path),
    ):
        with pytest.raises(RuntimeError, match="call fit first"):
            use(unfitted())


def test_other_files_are_refused(tmp_path):
    path = tmp_path / "other.safetensors"
    write_tensors(path, {"a": np.zeros(2)}, {"format": "something else"})
    with pytest.raises(ValueError, match="is not a forecaster: its format is 'something else'"):
        TitansForecaster.load(path)
    with pytest.raises(FileNotFoundError):
        TitansForecaster.load(tmp_path / "absent.safetensors")
