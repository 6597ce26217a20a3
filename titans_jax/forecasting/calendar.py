"""The step from a row of a table to the next, by the clock or by the calendar, and the dates that it gives.

Instants are ``datetime64`` of any unit in UTC, as `titans_jax.forecasting.table.Series` holds them. Steps of the
calendar (days, business days, months) are made on the clock of the table's own zone, so that a day is from midnight to
midnight, whether it has 23, 24 or 25 hours.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from datetime import tzinfo
from typing import Any, Literal

import numpy as np
import pandas as pd

from titans_jax.forecasting.table import Dates
from titans_jax.typing import Int

Kind = Literal[
    "time",
    "day",
    "business day",
    "month start",
    "month end",
    "business month start",
    "business month end",
    "month",
]
#: Offsets of pandas, by the number of kinds that a step has.
OFFSETS: dict[str, Callable[[int], pd.DateOffset]] = {
    "day": pd.offsets.Day,
    "business day": pd.offsets.BDay,
    "month start": pd.offsets.MonthBegin,
    "month end": pd.offsets.MonthEnd,
    "business month start": pd.offsets.BMonthBegin,
    "business month end": pd.offsets.BMonthEnd,
    "month": lambda count: pd.DateOffset(months=count),
}
DAY = np.timedelta64(1, "D")
#: The shortest day that a clock which is put forward leaves, and the shortest month.
_SHORT_DAY, _SHORT_MONTH = np.timedelta64(22, "h"), np.timedelta64(28, "D")
#: Days from 1970-01-01, a Thursday, to the Monday before.
_MONDAY = -3
_LAST_DAY_OF_ALL_MONTHS = 28


@dataclasses.dataclass(frozen=True)
class Step:
    """From a row to the next.

    Attributes:
        kind: "time" for a fixed time, else what is counted on the calendar.
        count: of nanoseconds for "time", else of what `kind` says.
        time_of_day: of every row of a step on the calendar, in nanoseconds after midnight.
    """

    kind: Kind
    count: int
    time_of_day: int = 0

    def __str__(self) -> str:
        if self.kind == "time":
            return str(pd.Timedelta(self.count, "ns"))
        return self.kind if self.count == 1 else f"{self.count} {self.kind}s"

    def ticks(self, dates: np.ndarray, zone: tzinfo | None) -> Int[np.ndarray, "T"]:
        """The number of each date's step since 1970: of rows that follow each other, one more each.

        Args:
            dates: instants ``[T]``.
            zone: of the table; None for a table without one.
        """
        if self.kind == "time":
            unit = unit_of(dates)
            interval = _time(self.count, unit)
            return (dates - np.datetime64(0, unit)) // interval
        days = _days(_wall(dates, zone))
        if self.kind == "day":
            return days // self.count
        if self.kind == "business day":
            monday = np.datetime64(_MONDAY, "D")
            return np.busday_count(monday, monday + (days - _MONDAY)) // self.count
        return _months(_wall(dates, zone)) // self.count

    def dates(self, first: np.datetime64, zone: tzinfo | None, rows: int) -> np.ndarray:
        """Instants ``[rows]`` from a first one on, in its unit.

        Args:
            first: the first instant. One that is not on the step's calendar is replaced by the next that is.
            zone: of the table.
            rows: how many.

        Raises:
            OutOfBoundsDatetime: a ValueError, where the unit cannot hold them.
        """
        unit = unit_of(first)
        if self.kind == "time":
            freq = pd.Timedelta(self.count, "ns")
            return pd.date_range(first, periods=rows, freq=freq, unit=unit).to_numpy()
        day = _wall(np.asarray([first]), zone).normalize()[0]
        offset = OFFSETS[self.kind](self.count)
        days = pd.date_range(day, periods=rows, freq=offset, unit=unit)
        return _instants(days, self.time_of_day, zone, unit)

    def cycle(self) -> int:
        """Rows of the cycle that most series of such a step have; 0 where none is a whole number of two or more.

        A day for rows that are shorter, five business days, a year of months; rows of a day have none.
        """
        if self.kind == "time":
            return _whole(int(DAY / np.timedelta64(1, "ns")), self.count)
        if self.kind in ("day", "business day"):
            return 5 if self == Step("business day", 1, self.time_of_day) else 0
        return _whole(12, self.count)


def step_of(dates: np.ndarray, zone: tzinfo | None) -> Step:
    """The usual step of dates in order, of which some may be left out.

    Args:
        dates: instants ``[T]``, at least two.
        zone: of the table.
    """
    interval = max(_median(np.diff(dates)), np.timedelta64(1, unit_of(dates)))
    time = Step("time", int(interval.astype("timedelta64[ns]").astype(np.int64)))
    if interval < _SHORT_DAY:
        return time
    wall = _wall(dates, zone)
    times = (wall - wall.normalize()).to_numpy().astype("timedelta64[ns]").astype(np.int64)
    at = int(_median(times))
    unit = unit_of(dates)
    if (_instants(wall.normalize(), at, zone, unit) != dates).any():
        return time
    days, months = _days(wall), _months(wall)
    if interval >= _SHORT_MONTH:
        for kind, holds in _month_kinds(days, wall).items():
            if holds.all():
                return Step(kind, int(_median(np.diff(months))), at)
    usual = int(_median(np.diff(days)))
    weeks, weekdays = np.divmod(days - _MONDAY, 7)
    if usual == 1 and (weekdays < 5).all() and weeks[0] != weeks[-1]:
        return Step("business day", 1, at)
    return Step("day", usual, at)


def dates_after(dated: Dates, rows: int) -> np.ndarray:
    """The instants of the rows that follow.

    Args:
        dated: dates of rows, with a step.
        rows: how many follow.

    Raises:
        OutOfBoundsDatetime: a ValueError, where the unit of the dates cannot hold them.
    """
    assert dated.step is not None
    return dated.step.dates(dated.instants[-1], dated.zone, rows + 1)[1:]


def stamps(dates: np.ndarray, zone: tzinfo | None) -> pd.DatetimeIndex:
    """Instants as pandas shows them, in a zone.

    Args:
        dates: instants ``[T]``.
        zone: of the table; None for a table without one.
    """
    index = pd.DatetimeIndex(dates)
    return index if zone is None else index.tz_localize("UTC").tz_convert(zone)


def in_unit(dates: np.ndarray, unit: Any) -> np.ndarray:
    """Dates in another unit.

    Raises:
        OutOfBoundsDatetime: a ValueError, where the unit cannot hold them.
    """
    return pd.DatetimeIndex(dates).as_unit(unit).to_numpy()


def unit_of(dates: Any) -> Any:
    """The unit of dates: "s", "ms", "us" or "ns"."""
    return np.datetime_data(dates.dtype)[0]


def finer_unit(first: np.ndarray, second: np.ndarray) -> str:
    """The finer of two arrays' units."""
    units = ("s", "ms", "us", "ns")
    return max((unit_of(dates) for dates in (first, second)), key=units.index)


def zone_name(zone: tzinfo | None) -> str | None:
    """A name from which `zone_of` makes the zone again.

    Raises:
        ValueError: for a zone that has none.
    """
    if zone is None:
        return None
    name, year = str(zone), pd.date_range("2024-01-01", periods=366, tz="UTC")
    try:
        read = zone_of(name)
        same = (
            year.tz_convert(read).tz_localize(None) == year.tz_convert(zone).tz_localize(None)
        ).all()
    except (ValueError, KeyError, OSError):
        same = False
    if not same:
        raise ValueError(
            f"the time zone {zone!r} has no name that a file could hold: use one of zoneinfo.ZoneInfo, as "
            "table.tz_convert('Europe/Paris') does"
        )
    return name


def zone_of(name: str | None) -> tzinfo | None:
    """The time zone of a name, such as "Europe/Paris" or "UTC+01:00"."""
    return None if name is None else pd.Timestamp(0, tz=name).tz


def _wall(dates: np.ndarray, zone: tzinfo | None) -> pd.DatetimeIndex:
    """What a clock in the zone shows."""
    return stamps(dates, zone).tz_localize(None)


def _instants(
    days: pd.DatetimeIndex, time_of_day: int, zone: tzinfo | None, unit: str
) -> np.ndarray:
    """The instants at which a clock shows a time of day: the first of two, the next where there is none.

    Args:
        days: midnights without a zone.
        time_of_day: in nanoseconds.
        zone: of the clock.
        unit: of the instants.
    """
    wall = days.to_numpy().astype(f"datetime64[{unit}]") + _time(time_of_day, unit)
    if zone is None:
        return wall
    first = np.ones(len(wall), bool)
    local = pd.DatetimeIndex(wall).tz_localize(zone, ambiguous=first, nonexistent="shift_forward")
    return local.tz_convert("UTC").tz_localize(None).to_numpy()


def _days(wall: pd.DatetimeIndex) -> np.ndarray:
    return wall.to_numpy().astype("datetime64[D]").astype(np.int64)


def _months(wall: pd.DatetimeIndex) -> np.ndarray:
    return wall.to_numpy().astype("datetime64[M]").astype(np.int64)


def _month_kinds(days: np.ndarray, wall: pd.DatetimeIndex) -> dict[Kind, np.ndarray]:
    """Which dates are such days of their months."""
    day = days.astype("datetime64[D]")
    first = day.astype("datetime64[M]").astype("datetime64[D]")
    after = (day.astype("datetime64[M]") + np.timedelta64(1, "M")).astype("datetime64[D]")
    same = (wall.day == wall.day[0]) & (wall.day <= _LAST_DAY_OF_ALL_MONTHS)
    return {
        "month start": day == first,
        "month end": day == after - DAY,
        "business month start": day == np.busday_offset(first, 0, roll="forward"),
        "business month end": day == np.busday_offset(after, -1, roll="forward"),
        "month": np.asarray(same),
    }


def _time(nanoseconds: int, unit: str) -> np.timedelta64:
    return np.timedelta64(nanoseconds, "ns").astype(f"timedelta64[{unit}]")


def _median(values: np.ndarray) -> Any:
    """The middle value, the lower of two: exact, unlike a mean of integers of 64 bits."""
    return np.sort(values)[(len(values) - 1) // 2]


def _whole(total: int, part: int) -> int:
    return total // part if total % part == 0 and total >= 2 * part else 0
