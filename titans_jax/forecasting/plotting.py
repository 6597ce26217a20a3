"""A picture of a forecast: the rows before it, the forecast and, if there is one, the truth."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import Any

import numpy as np

from titans_jax.forecasting.table import Dates, Series
from titans_jax.typing import Float

#: Panels that a reader can still tell apart.
MOST_PANELS = 12
#: Kind of line of history, forecast and truth: told apart by more than their colours.
LINES = {
    "history": {"color": "0.35"},
    "truth": {"color": "tab:blue"},
    "forecast": {"color": "tab:red", "linestyle": "--"},
}


def draw(
    history: Series,
    forecast: Float[np.ndarray, "S C"],
    truth: Series | None = None,
    columns: Sequence[Hashable] | None = None,
) -> Any:
    """Draws a panel for each column.

    Args:
        history: the last rows before the forecast.
        forecast: the rows that follow, in the table's units.
        truth: what came, from the first row that follows on; None if it is not known.
        columns: labels of the columns to draw; None for all.

    Returns:
        The panels, an array of matplotlib's Axes.

    Raises:
        ImportError: without matplotlib.
        ValueError: for columns that are not there, or too many.
    """
    try:
        from matplotlib import dates as calendar
        from matplotlib import pyplot as plt
    except ImportError as error:
        raise ImportError(
            "a plot needs matplotlib: pip install 'titans-jax[forecasting]'"
        ) from error
    places = _places(history, columns)
    before, after = _axis(history, len(forecast))
    figure, grid = plt.subplots(
        len(places), sharex=True, squeeze=False, figsize=(9, 1 + 2 * len(places)), layout="constrained"
    )  # fmt: skip
    panels = grid[:, 0]
    for panel, place in zip(panels, places, strict=True):
        past = history.values[:, place]
        lines = {"history": (before, past)}
        # From the last row on: lines with a gap look as if rows were missing.
        joined = np.concatenate([before[-1:], after])
        if truth is not None:
            known = np.concatenate([past[-1:], truth.values[: len(forecast), place]])
            lines["truth"] = (joined[: len(known)], known)
        lines["forecast"] = (joined, np.concatenate([past[-1:], forecast[:, place]]))
        for name, (x, y) in lines.items():
            panel.plot(x, y, label=name, **LINES[name])
        label = history.columns[place]
        panel.set_ylabel(", ".join(map(str, label)) if isinstance(label, tuple) else str(label))
        panel.axvline(before[-1], color="0.8", zorder=0)
    lines_drawn, names = panels[0].get_legend_handles_labels()
    figure.legend(lines_drawn, names, loc="outside upper center", ncols=len(LINES), frameon=False)
    if history.dated is None:
        panels[-1].set_xlabel("rows after the last")
    else:
        locator = calendar.AutoDateLocator(tz=history.dated.zone)
        panels[-1].xaxis.set_major_locator(locator)
        formatter = calendar.ConciseDateFormatter(locator, tz=history.dated.zone)
        panels[-1].xaxis.set_major_formatter(formatter)
    return panels


def _places(history: Series, columns: Sequence[Hashable] | None) -> list[int]:
    """Where the columns to be drawn are."""
    known = list(history.columns)
    for label in columns or ():
        if label not in known:
            raise ValueError(f"columns must be of the fitted ones, {known}, got {label!r}")
    chosen = known if columns is None else list(columns)
    if not 0 < len(chosen) <= MOST_PANELS:
        raise ValueError(
            f"columns must name 1 to {MOST_PANELS} of the {len(known)} columns, got {len(chosen)}"
        )
    return [known.index(label) for label in chosen]


def _axis(history: Series, rows: int) -> tuple[np.ndarray, np.ndarray]:
    """Where the rows before a forecast and its own are on the axis of time."""
    dated: Dates | None = history.dated
    if dated is None:
        return np.arange(1 - len(history.values), 1), np.arange(1, rows + 1)
    from titans_jax.forecasting.calendar import dates_after

    return dated.instants, dates_after(dated, rows)
