"""From a table to a series: values, dates, and a clear word about whatever a forecaster cannot take.

A pandas DataFrame whose index or column holds dates (titans_jax/forecasting/frame.py), or an array, whose rows are
taken as equally spaced. Every error names the column and the row. pandas is imported only where a table is its own.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Hashable
from datetime import tzinfo
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from titans_jax.fields import one_of
from titans_jax.typing import Float

if TYPE_CHECKING:
    from titans_jax.forecasting.calendar import Step

Missing = Literal["raise", "ffill"]


@dataclasses.dataclass(frozen=True)
class Dates:
    """The dates of rows.

    Attributes:
        instants: in UTC, ``datetime64`` in the table's own unit; the dates themselves where there is no zone.
        zone: of the table's dates; None for none.
        step: from a row to the next; None for a single row.
        name: of the column or index that held them.
        place: what errors call it.
    """

    instants: np.ndarray
    zone: tzinfo | None
    step: Step | None
    name: Hashable
    place: str = "the index"


@dataclasses.dataclass(frozen=True)
class Series:
    """A multivariate series, a step apart in time.

    Attributes:
        values: in float64, finite.
        columns: labels of the variates, as in the table.
        levels: names of the levels of these labels.
        dated: dates of the rows; None for an array.
    """

    values: Float[np.ndarray, "T C"]
    columns: tuple[Hashable, ...]
    levels: tuple[Hashable, ...] = (None,)
    dated: Dates | None = None

    @property
    def dates(self) -> np.ndarray | None:
        """Instants of the rows."""
        return None if self.dated is None else self.dated.instants

    def tail(self, rows: int) -> Series:
        """The last rows."""
        dated = self.dated
        if dated is not None:
            dated = dataclasses.replace(dated, instants=dated.instants[-rows:])
        return dataclasses.replace(self, values=self.values[-rows:], dated=dated)

    def then(self, following: Series) -> Series:
        """This series and the rows that follow it."""
        dated = self.dated
        if dated is not None and following.dated is not None:
            from titans_jax.forecasting.calendar import finer_unit, in_unit

            parts = (dated.instants, following.dated.instants)
            unit = finer_unit(*parts)
            instants = np.concatenate([in_unit(part, unit) for part in parts])
            step = dated.step or following.dated.step
            dated = dataclasses.replace(dated, instants=instants, step=step)
        values = np.concatenate([self.values, following.values])
        return dataclasses.replace(self, values=values, dated=dated)


def read_series(
    table: Any, missing: Missing = "raise", *, like: Series | None = None, follows: bool = False
) -> Series:
    """Checks a table and makes a series of it.

    Args:
        table: a DataFrame, a Series of pandas, or an array of ``[T]`` or ``[T, C]``.
        missing: what to do where a value is NaN or dates leave rows out: "raise" an error, or "ffill" with the
            last value seen, which looks at no later row.
        like: a series whose columns and step the table must have.
        follows: whether the table must go on where `like` ends. Rows between them are missing rows.

    Raises:
        TypeError: for something that is no table.
        ValueError: naming column and row, for values that are no finite numbers, dates that are no dates, not
            sorted, given twice, in no known step, or missing.
    """
    one_of(Missing)("missing", missing)
    series = _read(table)
    if not series.values.size:
        raise ValueError(
            f"the table must have rows and columns of values, got shape {series.values.shape}"
        )
    if like is not None and series.columns != like.columns:
        raise ValueError(
            f"the table's columns must be {list(like.columns)}, got {list(series.columns)}"
        )
    before = like.tail(1) if like is not None and follows else None
    if before is not None and (series.dates is None) != (before.dates is None):
        raise ValueError("the rows must have dates if and only if the fitted table had them")
    _refuse(np.isinf(series.values), series, "is infinite", "must be a finite number")
    if series.dated is not None:
        series = _regular(series, missing, like, follows)
    if missing == "ffill":
        above = series.values[:0] if before is None else before.values
        filled = forward_filled(np.concatenate([above, series.values]))[len(above) :]
        series = dataclasses.replace(series, values=filled)
    _refuse(np.isnan(series.values), series, "is missing", _REMEDY[missing])
    return series


_REMEDY = {
    "raise": "fill it, or pass missing='ffill'",
    "ffill": "it has no value before it to fill it with: drop the first rows",
}


def cycle_rows(series: Series) -> int:
    """Rows of the cycle that dates tell of, see `Step.cycle`; 0 for none."""
    return 0 if series.dated is None or series.dated.step is None else series.dated.step.cycle()


def rows_per_day(dates: np.ndarray) -> int:
    """Rows of a day; 0 where a day is not a whole number of at least two rows.

    Args:
        dates: of rows in order, some of which may be left out or given twice.
    """
    from titans_jax.forecasting.calendar import step_of

    step = step_of(dates, None) if len(dates) > 1 else None
    return step.cycle() if step is not None and step.kind == "time" else 0


def phases(dated: Dates | None, rows: int, season: int, first_row: int = 0) -> np.ndarray:
    """Row of the cycle at every row, ``[rows]``: from the calendar where there is one, else counted.

    Args:
        dated: dates of the rows; they keep the phase right across gaps.
        rows: number of rows.
        season: rows of the cycle; 0 for none.
        first_row: number of the first row, where rows are counted.
    """
    if not season:
        return np.zeros(rows, np.int32)
    if dated is None or dated.step is None:
        return ((first_row + np.arange(rows)) % season).astype(np.int32)
    return (dated.step.ticks(dated.instants, dated.zone) % season).astype(np.int32)


def forward_filled(values: Float[np.ndarray, "T C"]) -> Float[np.ndarray, "T C"]:
    """Every NaN replaced by the last number above it; those above all numbers stay."""
    rows = np.where(np.isnan(values), 0, np.arange(len(values))[:, None])
    return np.take_along_axis(values, np.maximum.accumulate(rows, axis=0), axis=0)


def _read(table: Any) -> Series:
    """A table's values as they are: not yet checked for what is missing or infinite."""
    if hasattr(table, "iloc"):
        from titans_jax.forecasting.frame import from_frame

        return from_frame(table)
    if hasattr(table, "columns"):
        kind = f"{type(table).__module__}.{type(table).__qualname__}"
        raise TypeError(f"the table must be a DataFrame of pandas, got a {kind}: convert it first")
    try:
        given = np.asarray(table)
        if given.dtype.kind in "mMc":  # which would be cast without a word
            raise TypeError(f"its values are {given.dtype}")
        values = given.astype(np.float64)
    except (TypeError, ValueError) as error:
        raise TypeError(
            f"the table must be a DataFrame or an array of numbers, got {type(table).__name__}: {error}"
        ) from error
    values = values[:, None] if values.ndim == 1 else values
    if values.ndim != 2:
        raise ValueError(f"an array must be [T] or [T, C], got shape {values.shape}")
    return Series(values, tuple(range(values.shape[1])))


def _regular(series: Series, missing: Missing, like: Series | None, follows: bool) -> Series:
    """Refuses dates that no step gives; puts rows that are left out back in as NaN."""
    from titans_jax.forecasting import calendar

    dated = series.dated
    assert dated is not None
    known = None if like is None else like.dated
    if known is not None:
        if (known.zone is None) != (dated.zone is None):
            with_zone = ("without", "with")
            raise ValueError(
                f"{dated.place}: its dates are {with_zone[dated.zone is not None]} a time zone, those of the fitted "
                f"table {with_zone[known.zone is not None]} one"
            )
        unit = calendar.finer_unit(known.instants, dated.instants)
        shown = known.zone if follows else dated.zone
        instants = calendar.in_unit(dated.instants, unit)
        dated = dataclasses.replace(dated, instants=instants, zone=shown, step=known.step)
    dates, added = dated.instants, 0
    if known is not None and follows:
        last = calendar.in_unit(known.instants[-1:], calendar.unit_of(dates))
        dates, added = np.concatenate([last, dates]), 1
    if len(dates) < 2:
        return dataclasses.replace(series, dated=dated)

    place, zone = dated.place, dated.zone

    def say(row: int) -> str:
        return f"{place}, row {row - added}: {calendar.stamps(dates[row : row + 1], zone)[0]}"

    after = np.diff(dates).astype(np.int64)
    if added and after[0] <= 0:
        last_date = calendar.stamps(dates[:1], zone)[0]
        raise ValueError(f"{say(1)} does not follow {last_date}: give the rows after it")
    for wrong, what, remedy in (
        (after < 0, "is before the row above", "sort the table by date"),
        (after == 0, "is the row above's too", "drop one of the two rows"),
    ):
        if wrong.any():
            raise ValueError(f"{say(int(wrong.argmax()) + 1)} {what}: {remedy}")
    step = dated.step or calendar.step_of(dates, zone)
    dated = dataclasses.replace(dated, step=step)
    ticks = step.ticks(dates, zone)
    places, moves = ticks - ticks[0], np.diff(ticks)
    usual = int(np.sort(moves[added:])[(len(moves) - added - 1) // 2]) if len(moves) > added else 1
    if usual > 1 and len(moves) > added + 1:
        raise ValueError(f"the rows are {usual} steps of a {step} apart, the fitted ones one")
    missed = int(places[-1]) + 1 - len(dates)
    if missed > len(dates) + (0 if like is None else len(like.values)):
        row = int(moves.argmax()) + 1
        raise ValueError(
            f"{say(row)} is {moves[row - 1]} steps of a {step} after the row above, and {missed} rows are missing in "
            "all, more than there are: cut the table there"
        )
    line = step.dates(dates[0], zone, int(places[-1]) + 1)
    off = (moves < 1) | (line[places[1:]] != dates[1:])
    if off.any() or line[0] != dates[0]:
        row = int(off.argmax()) + 1 if off.any() else 0
        raise ValueError(
            f"{say(row)} is no multiple of the usual step of a {step}{_later(dates, row)}: resample the table to "
            "equal steps, to days, business days, months, quarters or years, or pass its values as an array"
        )
    if missed and missing == "raise":
        row = int((moves > 1).argmax()) + 1
        wanted = calendar.stamps(line[places[row - 1] + 1 :][:1], zone)[0]
        above = calendar.stamps(dates[row - 1 : row], zone)[0]
        raise ValueError(
            f"{say(row)} does not follow {above}: it must be {wanted}, a {step} later; rows are missing. Put them "
            "in, or pass missing='ffill'"
        )
    whole = np.full((len(line) - added, len(series.columns)), np.nan)
    whole[places[added:] - added] = series.values
    dated = dataclasses.replace(dated, instants=line[added:])
    return dataclasses.replace(series, values=whole, dated=dated)


def _later(dates: np.ndarray, row: int) -> str:
    """How much later than the row above a row is."""
    import pandas as pd

    return f", {pd.Timedelta(dates[row] - dates[row - 1])} after the row above" if row else ""


def _refuse(bad: np.ndarray, series: Series, what: str, remedy: str) -> None:
    if not bad.any():
        return
    row, column = (int(i) for i in np.argwhere(bad)[0])
    when = ""
    if series.dated is not None:
        from titans_jax.forecasting.calendar import stamps

        when = f" ({stamps(series.dated.instants[row : row + 1], series.dated.zone)[0]})"
    label = series.columns[column]
    raise ValueError(
        f"column {label!r}, row {row}{when} {what}: {remedy}; {int(bad.sum())} such values in all"
    )
