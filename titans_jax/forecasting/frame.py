"""Tables of pandas: where their dates are, what is a number and what is not, and a forecast in a table's own form.

Dates are the index, a column "date", or the only column that holds dates. Numbers are never taken for dates, nor
dates, durations or periods for numbers.
"""

from __future__ import annotations

import warnings
from collections.abc import Hashable
from typing import Any

import numpy as np
import pandas as pd
from pandas.api import types

from titans_jax.forecasting.calendar import stamps
from titans_jax.forecasting.table import Dates, Series
from titans_jax.typing import Float

DATE = "date"
#: What pandas calls the values of a column that holds dates.
_DATES = ("datetime64", "datetime", "date")
_NUMBERS = ("integer", "floating", "mixed-integer", "mixed-integer-float", "decimal", "boolean", "complex")  # fmt: skip
#: What pandas calls values that it would turn into numbers without a word, and what to do with them.
_NO_NUMBERS = {
    **dict.fromkeys(_DATES, ("dates", "drop it, or name the column of the rows' dates 'date'")),
    **dict.fromkeys(
        ("timedelta64", "timedelta"),
        ("durations", "convert them to numbers, as by column.dt.total_seconds()"),
    ),
    "period": ("periods", "convert them to dates by column.dt.to_timestamp()"),
    "interval": ("intervals", "convert them to numbers"),
    "complex": ("complex numbers", "give real and imaginary parts as two columns"),
}


def from_frame(frame: Any) -> Series:
    """A table's values and dates, not yet checked for what is missing or infinite.

    Args:
        frame: a DataFrame, or a Series as its only column.

    Raises:
        TypeError: for another class of pandas.
        ValueError: naming what holds no numbers, or no dates.
    """
    if isinstance(frame, pd.Series):
        frame = frame.to_frame()
    if not isinstance(frame, pd.DataFrame):
        raise TypeError(f"the table must be a DataFrame, got a {type(frame).__name__}")
    twice = frame.columns[frame.columns.duplicated()]
    if len(twice):
        raise ValueError(f"column {twice[0]!r} is there twice: rename or drop one")
    column = _date_column(frame)
    if column is None:
        dated = _of_index(frame.index)
    else:
        dated = _dated(frame.iloc[:, column], frame.columns[column])
        frame = frame.iloc[:, [i for i in range(frame.shape[1]) if i != column]]
    values = np.empty(frame.shape, np.float64)
    for index, label in enumerate(frame.columns):
        values[:, index] = _numbers(frame.iloc[:, index], label)
    return Series(values, tuple(frame.columns), tuple(frame.columns.names), dated)


def read_dates(column: pd.Series, place: str) -> pd.DatetimeIndex:
    """The dates of a column, with their zone; in UTC where strings have offsets that change.

    Args:
        column: of dates, or of strings.
        place: what errors call it.

    Raises:
        ValueError: naming the row, for what is no date.
    """
    column = column.astype(object) if isinstance(column.dtype, pd.CategoricalDtype) else column
    kind = types.infer_dtype(column, skipna=True)
    numbers = kind in _NUMBERS or (
        kind == "mixed" and any(types.is_number(x) and not pd.isna(x) for x in column)
    )
    if numbers:
        raise ValueError(
            f"{place} holds numbers, which are no dates: convert it by pd.to_datetime(column, format='%Y') for "
            "years, format='%Y%m%d' for 20240131, unit='s' for seconds since 1970, or drop it where it only counts rows"
        )
    if kind in _NO_NUMBERS and kind not in _DATES:
        what, remedy = _NO_NUMBERS[kind]
        raise ValueError(f"{place} holds {what}, which are no dates: {remedy}")
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message="Could not infer format")
        warnings.filterwarnings("ignore", message=".*mixed time zones", category=FutureWarning)
        try:
            parsed = _parsed(column)
        except UserWarning:
            first = column.dropna().iloc[0]
            raise ValueError(
                f"{place}, row {int(column.notna().to_numpy().argmax())}: {first!r} is not a date in a known format: "
                "convert the column by pd.to_datetime(column, format=...)"
            ) from None
    wrong = parsed.isna().to_numpy()
    if wrong.any():
        row = int(wrong.argmax())
        raise ValueError(f"{place}, row {row}: {column.iloc[row]!r} is not a date like those above")
    return pd.DatetimeIndex(parsed)


def instants_of(dates: pd.DatetimeIndex) -> np.ndarray:
    """Dates in UTC, without a zone, in their own unit; those that have no zone as they are."""
    return (dates if dates.tz is None else dates.tz_convert("UTC").tz_localize(None)).to_numpy()


def to_frame(values: Float[np.ndarray, "S C"], series: Series, dates: np.ndarray) -> pd.DataFrame:
    """Values as a table in the form of the one that a series was read from.

    Args:
        values: of the series' columns.
        series: that had dates.
        dates: instants of the rows.
    """
    dated = series.dated
    assert dated is not None
    index = stamps(dates, dated.zone).rename(dated.name)
    if len(series.levels) > 1:
        columns: pd.Index = pd.MultiIndex.from_tuples(series.columns, names=series.levels)
    else:
        columns = pd.Index(series.columns, tupleize_cols=False, name=series.levels[0])
    return pd.DataFrame(values, index, columns)


def _parsed(column: pd.Series) -> pd.Series:
    """Dates, NaT where there is none. Strings whose offsets from UTC differ are an error or objects in pandas."""
    try:
        parsed = pd.to_datetime(column, errors="coerce")
    except ValueError:
        return pd.to_datetime(column, errors="coerce", utc=True)
    if types.is_object_dtype(parsed.dtype):
        return pd.to_datetime(column, errors="coerce", utc=True)
    return parsed


def _date_column(frame: pd.DataFrame) -> int | None:
    """Which column holds the dates of the rows; None for none, where the index may."""
    holds = [
        i for i in range(frame.shape[1]) if types.infer_dtype(frame.iloc[:, i], skipna=True) in _DATES
    ]  # fmt: skip
    named = [i for i, label in enumerate(frame.columns) if _is_date(label)]
    found = named or holds
    if found and types.infer_dtype(frame.index, skipna=True) in _DATES:
        raise ValueError(
            f"column {frame.columns[found[0]]!r} and the index both hold dates: drop one of them"
        )
    if len(found) > 1:
        labels = ", ".join(repr(frame.columns[i]) for i in found)
        raise ValueError(f"columns {labels} all hold dates: drop all but that of the rows' dates")
    return found[0] if found else None


def _is_date(label: Hashable) -> bool:
    """Whether a label is "date", of a table with several levels of labels on the first alone."""
    if isinstance(label, tuple):
        return len(label) > 0 and label[0] == DATE and not any(label[1:])
    return isinstance(label, str) and label == DATE


def _of_index(index: pd.Index) -> Dates | None:
    """The dates of an index; None where it only counts or names rows."""
    if isinstance(index, pd.MultiIndex):
        raise ValueError(
            f"the index has levels {list(index.names)}: give each series columns of its own, as by table.unstack(), "
            "and keep the dates alone in the index"
        )
    kind = types.infer_dtype(index, skipna=True)
    if kind in _DATES:
        return _dated(index.to_series(), index.name, "the index")
    if kind == "period":
        raise ValueError(
            "the index holds periods: make dates of them, table.index = table.index.to_timestamp()"
        )
    if kind in _NO_NUMBERS:
        raise ValueError(
            f"the index holds {_NO_NUMBERS[kind][0]}, which are no dates: add a date to it"
        )
    if kind == "string" and len(index):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            first = pd.to_datetime(index[:1], errors="coerce", utc=True)
        if first.notna().all():
            raise ValueError(
                f"the index holds strings that look like dates, {index[0]!r}: convert it, table.index = "
                "pd.to_datetime(table.index), or drop it by table.reset_index(drop=True)"
            )
    return None


def _dated(column: pd.Series, name: Hashable, place: str | None = None) -> Dates:
    place = place or f"column {name!r}"
    dates = read_dates(column, place)
    return Dates(instants_of(dates), dates.tz, None, name, place)


def _numbers(column: pd.Series, label: Hashable) -> np.ndarray:
    """A column's numbers in float64, NaN where there is none."""
    kind = types.infer_dtype(column, skipna=True)
    if kind in _NO_NUMBERS:
        what, remedy = _NO_NUMBERS[kind]
        raise ValueError(f"column {label!r} holds {what}, which are no numbers: {remedy}")
    numbers = pd.to_numeric(column, errors="coerce").to_numpy(np.float64, na_value=np.nan)
    wrong = np.isnan(numbers) & column.notna().to_numpy()
    if wrong.any():
        row = int(wrong.argmax())
        raise ValueError(
            f"column {label!r}, row {row}: {column.iloc[row]!r} is not a number; where the column holds the rows' "
            "dates, convert it by pd.to_datetime"
        )
    return numbers
