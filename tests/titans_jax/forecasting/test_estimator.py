"""`TitansForecaster` as its users call it: tables in, tables out, and a clear word where that cannot be."""

import dataclasses
import functools

import matplotlib as mpl
import numpy as np
import pandas as pd
import pytest

from tests.titans_jax.forecasting.tables import small_table
from tests.tolerances import OUTPUT_F64, assert_close
from titans_jax.forecasting import TitansForecaster, TrainingConfig, estimator
from titans_jax.forecasting.training import Errors, Progress
from titans_jax.inference.pretrained import write_tensors

mpl.use("Agg")
from matplotlib import pyplot as plt

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
    with pytest.raises(
        ValueError,
        match=r"'date', row 0: .*09:00:00 does not follow .*07:00:00: it must be .*08:00:00",
    ):
        forecaster.observe(table[81:])
    with pytest.raises(ValueError, match=r"'date', row 0: .*07:00:00 does not follow .*07:00:00"):
        forecaster.observe(table[79:])
    with pytest.raises(ValueError, match="the rows are 2 steps of a 0 days 01:00:00 apart"):
        forecaster.observe(table[80::2])
    with pytest.raises(ValueError, match="the rows are 2 steps of a 0 days 01:00:00 apart"):
        forecaster.predict(table[::2])
    zoned = table.assign(date=table["date"].dt.tz_localize("UTC"))
    with pytest.raises(ValueError, match="with a time zone, those of the fitted table without one"):
        forecaster.observe(zoned[80:])
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
        ({"lookback": 8.0}, "lookback.*8.0"),
        ({"seed": -1}, "seed.*-1"),
        ({"missing": "drop"}, "missing.*'raise', 'ffill'.*'drop'"),
        ({"verbose": -1}, "verbose.*-1"),
        ({"training": {"epochs": 1}}, "training.*a TrainingConfig.*'epochs'"),
        ({"network": 3}, "network.*a Mapping.*3"),
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


def midnights() -> pd.DataFrame:
    """A hundred midnights in Paris, over the night that has 23 hours, under labels of two levels."""
    table = dated_table()
    index = pd.date_range("2024-01-11", periods=100, tz="Europe/Paris", name="day", unit="s")
    index.freq = None
    labels = pd.MultiIndex.from_tuples(
        [("Close", 1), ("Open", 1), ("Open", 2)], names=["price", None]
    )
    return pd.DataFrame(table.drop(columns="date").to_numpy(), index, labels)


@pytest.fixture(scope="module")
def local():
    """A forecaster fitted to the first eighty midnights; its shape is that of `saved`, which is compiled."""
    return unfitted(season=24, missing="ffill").fit(midnights()[:80])


def test_a_forecast_has_its_table_s_labels_zone_and_steps_also_from_a_file(
    local, tmp_path, monkeypatch
):
    table = midnights()
    found = local.predict()
    assert table.index[80].isoformat() == "2024-03-31T00:00:00+01:00"  # a day of 23 hours
    pd.testing.assert_index_equal(found.index, table.index[80:83])
    pd.testing.assert_index_equal(found.columns, table.columns)
    assert (table[79:83] - found).notna().sum().tolist() == [3, 3, 3]
    monkeypatch.setenv("HOME", str(tmp_path))
    local.save("~/local.safetensors")
    again = TitansForecaster.load("~/local.safetensors")
    assert (tmp_path / "local.safetensors").exists()
    pd.testing.assert_frame_equal(again.predict(), found)
    pd.testing.assert_frame_equal(
        again.observe(table[80:]).predict(), copied(local, tmp_path).observe(table[80:]).predict()
    )
    # A table in another zone has its forecasts there: of its own midnights.
    elsewhere = table.tz_localize(None).tz_localize("America/New_York")
    index = local.predict(elsewhere[:60]).index
    pd.testing.assert_index_equal(index, elsewhere.index[60:63])


def copied(forecaster, folder) -> TitansForecaster:
    """The same forecaster, so that observing leaves the first as it is."""
    forecaster.save(folder / "copy.safetensors")
    return TitansForecaster.load(folder / "copy.safetensors")


def test_rows_left_out_before_those_observed_are_filled(local, tmp_path):
    table = midnights()
    filled = table.copy()
    filled.iloc[80:83] = table.iloc[79].to_numpy()
    found, expected = (
        copied(local, tmp_path).observe(rows).predict() for rows in (table[83:90], filled[80:90])
    )
    pd.testing.assert_frame_equal(found, expected)
    np.testing.assert_array_equal(found.index, table.index[90:93])


def test_a_plot_is_of_the_last_rows_and_what_is_predicted(local):
    table = midnights()
    panels = local.plot(truth=table[80:82], columns=[("Open", 1)])
    lines = {line.get_label(): line.get_ydata() for line in panels[0].lines}
    plt.close("all")
    np.testing.assert_array_equal(lines["history"], table["Open", 1].iloc[68:80])
    np.testing.assert_array_equal(lines["forecast"][1:], local.predict()["Open", 1])
    np.testing.assert_array_equal(lines["truth"], table["Open", 1].iloc[79:82])
    with pytest.raises(ValueError, match=r"the index, row 0: .* does not follow"):
        local.plot(truth=table[70:])


def test_what_no_file_holds_is_refused_by_name(local, tmp_path):
    forecaster = copied(local, tmp_path)
    columns = (("Close", 1), ("Open", 1), frozenset())
    forecaster._last = dataclasses.replace(forecaster._last, columns=columns)
    with pytest.raises(ValueError, match=r"the label frozenset\(\) is a frozenset"):
        forecaster.save(tmp_path / "other.safetensors")


class Asked(Exception):
    """Carries the season that a network was asked for."""


@pytest.mark.parametrize(
    ("freq", "rows", "season"),
    [("h", 60, 24), ("h", 58, 0), ("1s", 2000, 0), ("ms", 2000, 0), ("MS", 60, 12), ("B", 60, 5), ("D", 60, 0)],
)  # fmt: skip
def test_the_cycle_is_what_dates_tell_and_training_rows_hold_twice(monkeypatch, freq, rows, season):
    def stop(config, *, rngs):
        raise Asked(config.season)

    monkeypatch.setattr(estimator, "Forecaster", stop)
    table = pd.DataFrame(
        {"y": np.arange(rows)}, pd.date_range("2024-01-01", periods=rows, freq=freq)
    )
    with pytest.raises(Asked, match=f"^{season}$"):
        unfitted().fit(table)


def test_a_cycle_that_no_training_row_completes_is_refused():
    with pytest.raises(ValueError, match=r"season must be at most the 64 rows .*got 65"):
        unfitted(season=65).fit(dated_table()[:80])


@pytest.mark.parametrize("verbose", [0, 1])
def test_fit_is_silent_unless_asked(monkeypatch, capsys, verbose):
    def no_training(model, *arguments, report, **more):
        if report is not None:
            report(Progress(1, 2, 0.5, Errors(0.25, 0.125), True, 3.0))
        raise Asked

    monkeypatch.setattr(estimator, "train", no_training)
    with pytest.raises(Asked):
        unfitted(verbose=verbose).fit(dated_table()[:80])
    said = (
        "epoch 1/2: training loss 0.5000, validation MSE 0.2500, MAE 0.1250, best so far, 3.0 s\n"
    )
    assert capsys.readouterr().out == said * verbose


def test_other_files_are_refused(tmp_path):
    path = tmp_path / "other.safetensors"
    write_tensors(path, {"a": np.zeros(2)}, {"format": "something else"})
    with pytest.raises(ValueError, match="is not a forecaster: its format is 'something else'"):
        TitansForecaster.load(path)
    with pytest.raises(FileNotFoundError):
        TitansForecaster.load(tmp_path / "absent.safetensors")
