"""From a table to a series: values, dates, and a clear word about whatever a forecaster cannot take.

A pandas DataFrame whose index or column "date" holds dates, or an array, whose rows are taken as equally spaced.
Every error names the column and the row. pandas is imported only where a table is one of its own.
"""

from __future__ import annotations

import dataclasses
from typing import Any, Literal

import numpy as np

from titans_jax.fields import require
from titans_jax.typing import Float

Missing = Literal["raise", "ffill"]
DATE = "date"
DAY = np.timedelta64(1, "D")


@dataclasses.dataclass(frozen=True)
class Series:
    """A multivariate series, equally spaced in time.

    Attributes:
        values: in float64, finite.
        columns: names of the variates.
        dates: of the rows, ``datetime64[ns]``; None for an array.
    """

    values: Float[np.ndarray, "T C"]
    columns: tuple[str, ...]
    dates: np.ndarray | None

    @property
    def interval(self) -> np.timedelta64:
        """Time from a row to the next.

        Raises:
            ValueError: without dates or with a single row.
        """
        if self.dates is None or len(self.dates) < 2:
            raise ValueError("the series has no interval: it has no dates, or a single row")
        return interval_of(self.dates)


def read_series(
    table: Any, missing: Missing = "raise", before: Float[np.ndarray, "C"] | None = None
) -> Series:
    """Checks a table and makes a series of it.

    Args:
        table: a DataFrame, or an array of ``[T]`` or ``[T, C]``.
        missing: what to do where a value is NaN or dates leave rows out: "raise" an error, or "ffill" with the
            last value seen, which looks at no later row.
        before: the row that the table follows, for "ffill".

    Raises:
        TypeError: for something that is no table.
        ValueError: naming column and row, for values that are no finite numbers, dates that are no dates, not
            sorted, given twice, unequally spaced, or missing.
    """
    require(missing in ("raise", "ffill"), "missing", missing, "'raise' or 'ffill'")
    if hasattr(table, "columns") and hasattr(table, "index"):
        values, columns, dates = _from_frame(table)
    else:
        values, columns, dates = _from_array(table)
    if not values.size:
        raise ValueError(
            f"the table must have rows and columns of values, got shape {values.shape}"
        )
    _refuse(np.isinf(values), columns, dates, "is infinite", "must be a finite number")
    if dates is not None:
        values, dates = _regular(values, columns, dates, missing)
    if missing == "ffill":
        known = before is not None and len(before) == len(columns)
        above = values[:0] if not known else np.asarray(before)[None]
        values = forward_filled(np.concatenate([above, values]))[len(above) :]
    _refuse(np.isnan(values), columns, dates, "is missing", _REMEDY[missing])
    return Series(values, columns, dates)


_REMEDY = {
    "raise": "fill it, or pass missing='ffill'",
    "ffill": "it has no value before it to fill it with: drop the first rows",
}


def interval_of(dates: np.ndarray) -> np.timedelta64:
    """The median time from a row to the next."""
    return np.timedelta64(int(np.median(np.diff(dates).astype(np.int64))), "ns")


def rows_per_day(dates: np.ndarray) -> int:
    """Rows of a day, 0 where a day is not a whole number of at least two rows."""
    if len(dates) < 2 or interval_of(dates) <= np.timedelta64(0):
        return 0
    count = DAY / interval_of(dates)
    return int(count) if count >= 2 and count == int(count) else 0


def phases(dates: np.ndarray | None, rows: int, season: int) -> np.ndarray:
    """Row of the cycle at every row, ``[rows]``: from the clock where there is one, else counted.

    Args:
        dates: of the rows; the clock keeps the phase right across gaps.
        rows: number of rows.
        season: rows of the cycle; 0 for none.
    """
    if not season:
        return np.zeros(rows, np.int32)
    if dates is None or len(dates) < 2:
        return (np.arange(rows) % season).astype(np.int32)
    ticks = np.round((dates - np.datetime64(0, "ns")) / interval_of(dates)).astype(np.int64)
    return (ticks % season).astype(np.int32)


def forward_filled(values: Float[np.ndarray, "T C"]) -> Float[np.ndarray, "T C"]:
    """Every NaN replaced by the last number above it; those above all numbers stay."""
    rows = np.where(np.isnan(values), 0, np.arange(len(values))[:, None])
    return np.take_along_axis(values, np.maximum.accumulate(rows, axis=0), axis=0)


def _from_array(table: Any) -> tuple[np.ndarray, tuple[str, ...], None]:
    try:
        values = np.asarray(table, np.float64)
    except (TypeError, ValueError) as error:
        raise TypeError(
            f"the table must be a DataFrame or an array of numbers, got {type(table).__name__}: {error}"
        ) from error
    values = values[:, None] if values.ndim == 1 else values
    if values.ndim != 2:
        raise ValueError(f"an array must be [T] or [T, C], got shape {values.shape}")
    return values, tuple(str(column) for column in range(values.shape[1])), None


def _from_frame(frame: Any) -> tuple[np.ndarray, tuple[str, ...], np.ndarray | None]:
    import pandas as pd

    dates = None
    if DATE in frame.columns:
        dates, frame = frame[DATE], frame.drop(columns=DATE)
    elif isinstance(frame.index, pd.DatetimeIndex):
        dates = frame.index.to_series()
    columns = tuple(str(column) for column in frame.columns)
    twice = sorted({column for column in columns if columns.count(column) > 1})
    if twice:
        raise ValueError(f"column {twice[0]!r} is there twice: rename or drop one")
    values = np.empty(frame.shape, np.float64)
    for index, column in enumerate(columns):
        numbers = pd.to_numeric(frame.iloc[:, index], errors="coerce").to_numpy(
            np.float64, na_value=np.nan
        )
        wrong = np.isnan(numbers) & frame.iloc[:, index].notna().to_numpy()
        if wrong.any():
            row = int(wrong.argmax())
            raise ValueError(
                f"column {column!r}, row {row}: {frame.iloc[row, index]!r} is not a number"
            )
        values[:, index] = numbers
    if dates is None:
        return values, columns, None
    stamps = pd.to_datetime(dates, errors="coerce")
    if stamps.isna().any():
        row = int(stamps.isna().to_numpy().argmax())
        raise ValueError(f"column {DATE!r}, row {row}: {dates.iloc[row]!r} is not a date")
    if getattr(stamps.dt, "tz", None) is not None:  # clocks that are put back give a date twice
        stamps = stamps.dt.tz_convert("UTC").dt.tz_localize(None)
    return values, columns, stamps.to_numpy("datetime64[ns]")


def _regular(
    values: np.ndarray, columns: tuple[str, ...], dates: np.ndarray, missing: Missing
) -> tuple[np.ndarray, np.ndarray]:
    """Refuses dates that no clock gives; puts rows that are left out back in as NaN."""
    if len(dates) < 2:
        return values, dates
    steps = np.diff(dates)
    for wrong, what, remedy in (
        (steps < np.timedelta64(0), "is before the row above", "sort the table by date"),
        (steps == np.timedelta64(0), "is the row above's too", "drop one of the two rows"),
    ):
        if wrong.any():
            row = int(wrong.argmax()) + 1
            raise ValueError(f"column {DATE!r}, row {row}: {dates[row]} {what}: {remedy}")
    interval = interval_of(dates)
    uneven = steps != interval
    if not uneven.any():
        return values, dates
    row = int(uneven.argmax()) + 1
    place = f"column {DATE!r}, row {row}: {dates[row]} is {steps[row - 1]} after the row above"
    offsets = (dates - dates[0]) / interval
    if (offsets != np.round(offsets)).any():
        raise ValueError(
            f"{place}, which is no multiple of the usual {interval}: resample the table to equal steps"
        )
    if missing == "raise":
        raise ValueError(
            f"{place}, not the usual {interval}: rows are missing. Put them in, or pass missing='ffill'"
        )
    places = offsets.astype(np.int64)
    whole = np.full((places[-1] + 1, len(columns)), np.nan)
    whole[places] = values
    return whole, dates[0] + np.arange(len(whole)) * interval


def _refuse(
    bad: np.ndarray, columns: tuple[str, ...], dates: np.ndarray | None, what: str, remedy: str
) -> None:
    if not bad.any():
        return
    row, column = (int(i) for i in np.argwhere(bad)[0])
    when = "" if dates is None else f" ({dates[row]})"
    raise ValueError(
        f"column {columns[column]!r}, row {row}{when} {what}: {remedy}; {int(bad.sum())} such values in all"
    )
