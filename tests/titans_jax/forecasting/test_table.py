"""A table becomes a series, or an error that names the column and the row."""

import numpy as np
import pandas as pd
import pytest

from tests.titans_jax.forecasting.tables import small_table
from titans_jax.forecasting.scaling import standardiser
from titans_jax.forecasting.table import phases, read_series, rows_per_day


def test_frame_with_dates_in_a_column_or_in_the_index():
    table = small_table(30)
    by_column, by_index = read_series(table), read_series(table.set_index("date"))
    assert by_column.columns == by_index.columns == ("load", "heat")
    np.testing.assert_array_equal(by_column.values, table[["load", "heat"]].to_numpy())
    np.testing.assert_array_equal(by_column.dates, by_index.dates)
    assert by_column.interval == np.timedelta64(1, "h")


def test_arrays_have_no_dates():
    series = read_series(np.arange(5))
    assert (series.columns, series.dates, series.values.shape) == (("0",), None, (5, 1))


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
    table.loc[0, "heat"] = np.nan
    with pytest.raises(ValueError, match=r"'heat', row 0 .*no value before"):
        read_series(table, missing="ffill")
    filled = read_series(table, missing="ffill", before=np.asarray([1.0, 2.0]))
    assert filled.values[0, 1] == 2.0


def test_phases_follow_the_clock_across_a_gap():
    dates = small_table(60)["date"].to_numpy("datetime64[ns]")
    assert rows_per_day(dates) == 24
    gapped = np.delete(dates, np.arange(20, 25))
    np.testing.assert_array_equal(phases(gapped, len(gapped), 24)[[0, 19, 20]], [0, 19, 1])
    np.testing.assert_array_equal(phases(None, 5, 3), [0, 1, 2, 0, 1])
    assert rows_per_day(dates[::24]) == 0  # one row a day has no daily cycle


def test_constant_columns_are_only_shifted():
    values = np.stack([np.full(50, 0.1), np.arange(50.0)], axis=1)
    scaler = standardiser(values)
    scaled = scaler.apply(values)
    np.testing.assert_allclose(scaled[:, 0], 0, atol=1e-12)
    np.testing.assert_allclose(scaled[:, 1].std(), 1, rtol=1e-6)
    np.testing.assert_allclose(scaler.undo(scaled), values, atol=1e-5)
