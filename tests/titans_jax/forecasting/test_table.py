"""A table becomes a series, or an error that names the column and the row."""

import numpy as np
import pandas as pd
import pytest

from tests.titans_jax.forecasting.tables import small_table
from titans_jax.forecasting.calendar import step_of
from titans_jax.forecasting.scaling import standardiser
from titans_jax.forecasting.table import Dates, phases, read_series, rows_per_day


def test_frame_with_dates_in_a_column_or_in_the_index():
    table = small_table(30)
    by_column, by_index = read_series(table), read_series(table.set_index("date"))
    assert by_column.columns == by_index.columns == ("load", "heat")
    np.testing.assert_array_equal(by_column.values, table[["load", "heat"]].to_numpy())
    np.testing.assert_array_equal(by_column.dates, by_index.dates)
    assert by_column.dated is not None
    assert str(by_column.dated.step) == "0 days 01:00:00"


def test_arrays_have_no_dates():
    series = read_series(np.arange(5))
    assert (series.columns, series.dates, series.values.shape) == ((0,), None, (5, 1))


def spoil_dates(other, *rows):
    """What replaces the dates of some rows of a table by `other(dates, row)`."""

    def spoil(table):
        dates = list(table["date"])
        for row in rows:
            dates[row] = other(dates, row)
        table["date"] = dates

    return spoil


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda t: t.__setitem__("heat", t["heat"].where(t.index != 7)), r"'heat', row 7 .*is missing"),
        (lambda t: t.__setitem__("load", t["load"].where(t.index != 3, np.inf)), r"'load', row 3 .*infinite"),
        (lambda t: t.__setitem__("load", ["x" if i == 4 else "1" for i in t.index]), r"'load', row 4: 'x' is not"),
        (spoil_dates(lambda d, i: d[i - 1], 9), r"'date', row 9: .*row above's too"),
        (spoil_dates(lambda d, i: d[2], 9), r"'date', row 9: .*before the row"),
        (spoil_dates(lambda d, i: "?", 5), r"'date', row 5: '\?'"),
        (spoil_dates(lambda d, i: d[i] + pd.Timedelta("1h"), *range(6, 20)), r"'date', row 6: .*rows are missing"),
        (spoil_dates(lambda d, i: d[i] + pd.Timedelta("1min"), *range(6, 20)), r"'date', row 6: .*no multiple"),
        (lambda t: t.__setattr__("columns", ["date", "load", "load"]), "'load' is there twice"),
    ],
)  # fmt: skip
def test_bad_tables_are_refused_by_column_and_row(spoil, said):
    table = small_table(20)
    spoil(table)
    with pytest.raises(ValueError, match=said):
        read_series(table)


def test_forward_fill_looks_at_no_later_row():
    table = small_table(20)
    table.loc[7, "heat"] = np.nan
    series = read_series(table.drop(index=[12, 13]), missing="ffill")
    assert series.values.shape == (20, 2)  # the rows that were left out are back
    assert series.values[7, 1] == table["heat"][6]
    np.testing.assert_array_equal(
        series.values[12:14], table[["load", "heat"]].to_numpy()[[11, 11]]
    )
    table.loc[10, "heat"] = np.nan
    with pytest.raises(ValueError, match=r"'heat', row 0 .*no value before"):
        read_series(table[10:], missing="ffill")
    first = read_series(table[:7])
    filled = read_series(table[10:], missing="ffill", like=first, follows=True)
    np.testing.assert_array_equal(filled.values[:3], first.values[[-1, -1, -1]])
    assert filled.values[3].tolist() == [table["load"][10], first.values[-1, 1]]


def test_phases_follow_the_clock_across_a_gap():
    dates = small_table(60)["date"].to_numpy("datetime64[ns]")
    assert rows_per_day(dates) == 24
    gapped = np.delete(dates, np.arange(20, 25))
    dated = Dates(gapped, None, step_of(gapped, None), "date")
    np.testing.assert_array_equal(phases(dated, len(gapped), 24)[[0, 19, 20]], [0, 19, 1])
    np.testing.assert_array_equal(phases(None, 5, 3), [0, 1, 2, 0, 1])
    np.testing.assert_array_equal(phases(None, 4, 3, first_row=5), [2, 0, 1, 2])
    assert rows_per_day(dates[::24]) == 0  # one row a day has no daily cycle


def test_constant_columns_are_only_shifted():
    values = np.stack([np.full(50, 0.1), np.arange(50.0)], axis=1)
    scaler = standardiser(values)
    scaled = scaler.apply(values)
    np.testing.assert_allclose(scaled[:, 0], 0, atol=1e-12)
    np.testing.assert_allclose(scaled[:, 1].std(), 1, rtol=1e-6)
    np.testing.assert_allclose(scaler.undo(scaled), values, atol=1e-5)


HOURS = pd.date_range("2021-01-01", periods=30, freq="h")
NUMBERS = np.arange(30.0)


@pytest.mark.parametrize("hours", [HOURS, HOURS.tz_localize("Europe/Paris")])
@pytest.mark.parametrize("label", ["ds", "Date", 7, ("when", "")])
def test_the_only_column_of_dates_is_that_of_the_rows(hours, label):
    labels = pd.MultiIndex.from_tuples([("y", "a"), label]) if isinstance(label, tuple) else None
    table = pd.DataFrame({0: NUMBERS, 1: hours})
    table.columns = ["y", label] if labels is None else labels
    series = read_series(table)
    assert series.columns == (table.columns[0],)
    np.testing.assert_array_equal(series.values[:, 0], NUMBERS)
    assert series.dated is not None
    assert (series.dated.name, series.dated.zone) == (label, hours.tz)
    np.testing.assert_array_equal(series.dates, hours.tz_convert(None) if hours.tz else hours)


@pytest.mark.parametrize(
    ("columns", "index", "said"),
    [
        ({"a": HOURS, "b": HOURS}, None, "columns 'a', 'b' all hold dates"),
        ({"a": HOURS}, HOURS, "column 'a' and the index both hold dates"),
        ({"date": HOURS, "b": HOURS}, None, "column 'b' holds dates, which are no numbers"),
        ({"a": pd.to_timedelta(NUMBERS, "min")}, None, "column 'a' holds durations"),
        ({"a": HOURS.to_period("h")}, None, "column 'a' holds periods"),
        ({"a": NUMBERS + 1j}, None, "column 'a' holds complex numbers"),
        ({"a": HOURS.astype(str)}, None, "'a', row 0: '2021-01-01 00:00:00' is not a number.*to_datetime"),
        ({"date": np.arange(1990, 2020)}, None, "column 'date' holds numbers.*format='%Y'.*unit='s'"),
        ({"date": NUMBERS}, None, "column 'date' holds numbers"),
        ({"date": [2021, "2022", *HOURS[2:]]}, None, "column 'date' holds numbers"),
        ({"date": HOURS - HOURS[0]}, None, "column 'date' holds durations, which are no dates"),
        ({"date": HOURS.strftime("%H:%M")}, None, "'date', row 0: '00:00' is not a date in a known format"),
        ({"date": [*HOURS[:3].astype(str), "1/2/2021", *HOURS[4:].astype(str)]}, None, "'date', row 3: '1/2/2021'"),
        ({}, HOURS.to_period("h"), r"the index holds periods.*to_timestamp\(\)"),
        ({}, HOURS - HOURS[0], "the index holds durations"),
        ({}, HOURS.astype(str), r"the index holds strings that look like dates, '2021-01-01 00:00:00'"),
        ({}, pd.MultiIndex.from_product([["a", "b"], HOURS[:15]]), "the index has levels"),
    ],
)  # fmt: skip
def test_no_number_becomes_a_date_and_no_date_a_number(columns, index, said):
    table = pd.DataFrame({**columns, "y": NUMBERS}, index)
    with pytest.raises(ValueError, match=said):
        read_series(table)


@pytest.mark.parametrize(
    "values", [HOURS.to_numpy(), (HOURS - HOURS[0]).to_numpy(), NUMBERS + 1j, np.asarray(["a"])]
)
def test_arrays_of_no_numbers_are_refused(values):
    with pytest.raises(TypeError, match="an array of numbers"):
        read_series(values)


def test_offsets_that_change_are_read_in_utc():
    hours = pd.date_range("2024-03-30 20:00", periods=30, freq="h", tz="Europe/Paris")
    texts = [hour.isoformat() for hour in hours]
    series = read_series(pd.DataFrame({"date": texts, "y": NUMBERS}))
    np.testing.assert_array_equal(series.dates, hours.tz_convert(None))
    assert str(series.dated.zone) == "UTC"
    texts[20] = texts[20][:19]
    with pytest.raises(ValueError, match=r"'date', row 20: '2024-03-31T17:00:00' is not a date"):
        read_series(pd.DataFrame({"date": texts, "y": NUMBERS}))


def test_a_column_of_pandas_is_a_table():
    series = read_series(pd.Series(NUMBERS, HOURS, name="load"))
    assert series.columns == ("load",)
    np.testing.assert_array_equal(series.dates, HOURS)


def test_a_setting_that_is_neither_is_refused():
    with pytest.raises(ValueError, match=r"missing must be one of .*got 'drop'"):
        read_series(NUMBERS, missing="drop")
