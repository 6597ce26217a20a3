"""Steps of the clock and the calendar: the dates, gaps and filled rows are those that pandas gives."""

import datetime
from zoneinfo import ZoneInfo

import numpy as np
import pandas as pd
import pytest
from dateutil import tz
from hypothesis import given, settings
from hypothesis import strategies as st

from titans_jax.forecasting.calendar import dates_after, zone_name, zone_of
from titans_jax.forecasting.frame import to_frame
from titans_jax.forecasting.table import cycle_rows, phases, read_series

#: Frequencies of pandas, and rows of the cycle that each has by default.
CYCLES = {
    "250ms": 345_600, "1s": 86_400, "7min": 0, "15min": 96, "h": 24, "5h": 0, "12h": 2, "D": 0, "2D": 0, "W-WED": 0,
    "B": 5, "MS": 12, "ME": 12, "BMS": 12, "BME": 12, "2MS": 6, "QS-FEB": 4, "QE-NOV": 4, "6ME": 2, "YS-APR": 0,
    "YE": 0,
}  # fmt: skip
ZONES = (None, "UTC", "Europe/Paris", "America/New_York", "Asia/Kolkata", "Australia/Lord_Howe")


def table_of(index: pd.DatetimeIndex) -> pd.DataFrame:
    """A table that counts its rows."""
    return pd.DataFrame({"y": np.arange(float(len(index)))}, index)


@st.composite
def calendars(draw) -> tuple[str, pd.DatetimeIndex]:
    """Regular dates of every kind, and their frequency."""
    freq, zone = draw(st.sampled_from(list(CYCLES))), draw(st.sampled_from(ZONES))
    # No midnight of these zones is left out by a clock, on which pandas raises.
    start = pd.Timestamp(draw(st.dates(datetime.date(1990, 1, 1), datetime.date(2024, 12, 31))))
    hour = draw(st.sampled_from(["0h", "6h", "13h30min"]))
    rows = draw(st.integers(25, 60))
    index = pd.date_range(start + pd.Timedelta(hour), periods=rows, freq=freq, tz=zone)
    return freq, index.rename(draw(st.sampled_from([None, "when"])))


@settings(max_examples=100, deadline=None)
@given(calendars(), st.data())
def test_dates_and_filled_rows_are_those_of_pandas(calendar, data):
    freq, index = calendar
    gone = data.draw(st.sets(st.integers(1, len(index) - 2), min_size=0, max_size=4))
    table = table_of(index).drop(index=index[sorted(gone)])
    series = read_series(table, missing="ffill")
    filled = table.asfreq(index.freq, method="ffill")
    whole = to_frame(series.values, series, series.dates)
    pd.testing.assert_frame_equal(whole, filled, check_freq=False)
    assert cycle_rows(series) == CYCLES[freq]
    following = pd.date_range(index[-1], periods=8, freq=index.freq, name=index.name)[1:]
    after = to_frame(np.zeros((7, 1)), series, dates_after(series.dated, 7))
    following.freq = None  # which forecasts do not have
    pd.testing.assert_index_equal(after.index, following)
    phase = phases(series.dated, len(index), 7)
    np.testing.assert_array_equal(np.diff(phase) % 7, 1)
    # Rows that follow, the first of them left out.
    rest = table_of(following)[2:]
    observed = read_series(rest, missing="ffill", like=series, follows=True)
    np.testing.assert_array_equal(observed.values[:, 0], [len(index) - 1] * 2 + [2, 3, 4, 5, 6])
    joined = series.then(observed)
    pd.testing.assert_frame_equal(
        to_frame(joined.values, joined, joined.dates),
        pd.concat([filled, rest]).asfreq(index.freq, method="ffill"),
        check_freq=False,
    )
    if gone:
        with pytest.raises(ValueError, match="rows are missing"):
            read_series(table)


def test_a_business_day_is_its_weekday_and_a_month_its_month_in_the_cycle():
    days = read_series(table_of(pd.date_range("2024-01-01", periods=30, freq="B")))
    np.testing.assert_array_equal(phases(days.dated, 30, 5)[:7], [0, 1, 2, 3, 4, 0, 1])
    months = read_series(table_of(pd.date_range("2021-03-31", periods=30, freq="ME")))
    np.testing.assert_array_equal(phases(months.dated, 30, 12)[:11], [*range(2, 12), 0])
    # Rows between the hours: each is one of its own in the cycle.
    halves = read_series(table_of(pd.date_range("2024-01-01 00:30", periods=30, freq="h")))
    np.testing.assert_array_equal(phases(halves.dated, 30, 24)[:26], [*range(24), 0, 1])


def test_the_same_day_of_every_month_is_a_month():
    index = pd.DatetimeIndex([f"20{y:02}-{m:02}-15" for y in range(3) for m in range(1, 13)])
    series = read_series(table_of(index.delete([4])), missing="ffill")
    np.testing.assert_array_equal(series.dates, index)
    after = dates_after(series.dated, 2)
    np.testing.assert_array_equal(after, pd.DatetimeIndex(["2003-01-15", "2003-02-15"]))


@pytest.mark.parametrize(
    ("zone", "start"), [("Africa/Cairo", "2024-04-20"), ("America/Havana", "2024-10-28")]
)
def test_midnights_that_a_clock_leaves_out_or_shows_twice(zone, start):
    hours = pd.date_range(start, periods=20 * 24, freq="h", tz=zone)
    index = pd.Series(0, hours).resample("D").sum().index
    for rows in (4, 12):  # before that midnight and after it
        series = read_series(table_of(index[:rows]))
        np.testing.assert_array_equal(
            dates_after(series.dated, 8), index[rows : rows + 8].tz_convert(None)
        )


def test_dates_beyond_nanoseconds_keep_their_unit():
    for start in ("1600-01-01", "2300-01-01"):
        index = pd.date_range(start, periods=30, freq="D", unit="s")
        series = read_series(table_of(index))
        np.testing.assert_array_equal(series.dates, index.to_numpy())
        assert dates_after(series.dated, 3)[-1] == index[-1].to_datetime64() + np.timedelta64(
            3, "D"
        )
        # Their like in a unit that cannot hold them is no longer silently another date.
        later = table_of(pd.date_range("2024-01-01", periods=3, freq="D", unit="ns"))
        with pytest.raises(ValueError, match="Out of bounds"):
            read_series(later, like=series, follows=True)


def test_time_zones_have_names_in_files():
    for zone in (None, ZoneInfo("Europe/Paris"), pd.Timestamp("2024-01-01T00:00+05:30").tz):
        name = zone_name(zone)
        assert name is None or (
            zone_of(name).utcoffset(pd.Timestamp(2024, 7, 1))
        ) == zone.utcoffset(pd.Timestamp(2024, 7, 1))
    unnamed = tz.tzoffset("ship", 1234)
    with pytest.raises(ValueError, match=r"ship.*no name that a file could hold"):
        zone_name(unnamed)


def test_rows_of_no_step_and_gaps_longer_than_the_table_are_refused():
    uneven = pd.DatetimeIndex(["2024-01-01", "2024-01-02", "2024-01-03", "2024-01-04 05:00"])
    with pytest.raises(
        ValueError, match=r"the index, row 3: 2024-01-04 05:00.*multiple.* an array"
    ):
        read_series(table_of(uneven), missing="ffill")
    gap = pd.date_range("2024-01-01", periods=20, freq="ms").append(
        pd.DatetimeIndex(["2024-03-01"])
    )
    with pytest.raises(
        ValueError, match=r"row 20: 2024-03-01 00:00:00 .*5183999980 rows are missing"
    ):
        read_series(table_of(gap), missing="ffill")
