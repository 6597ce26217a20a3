"""Pictures of experiments: panels of curves or dots with the spread over seeds, a colour for each model everywhere."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from experiments.comparison.page import number, title_of

#: More lines than these in a panel cannot be told apart.
MOST_LINES = 8
_MEMORIES = ("mac", "lmm", "mag", "mal", "transformer")
#: Models of the same colour are not of one family (`families`).
COLOURS = {
    "mac": "C0", "lmm": "C1", "mag": "C2", "mal": "C3", "transformer": "0.25", "transformer_window": "0.6",
    "mamba2": "C4", "deltanet": "C5", "gated_deltanet": "C6", "ttt_linear": "C7", "ttt_mlp": "C8",
    "linear_attention": "C0", "retnet": "C1", "gla": "C2", "samba": "C3", "gated_deltanet_h2": "C9",
    "lmm_no_momentum": "C8", "lmm_depth2": "C9", "lmm_layers2": "C2",
}  # fmt: skip
#: Mean and deviation by place.
Curve = Mapping[float, tuple[float, float | None]]


def panels(
    rows: int, columns: int, title: str, *, size: tuple[float, float] = (3.8, 3.4), **options: Any
) -> tuple[Figure, np.ndarray]:
    """A figure with a title, and its panels [rows, columns].

    Args:
      rows: of panels.
      columns: of panels.
      title: of the figure.
      size: of a panel in inches.
      **options: of `Figure.subplots`.
    """
    figure = Figure((columns * size[0] + 1.5, rows * size[1] + 0.3), layout="constrained")
    figure.suptitle(title)
    return figure, figure.subplots(rows, columns, squeeze=False, **options)


def families(names: Iterable[str]) -> list[list[str]]:
    """Models in groups that fit in a panel each: those with this library's memories and Transformers, and all others.

    Args:
      names: of the models.
    """
    own: list[str] = []
    others: list[str] = []
    for name in names:
        (own if name.startswith(_MEMORIES) else others).append(name)
    groups = []
    for group in (own, others):
        parts = -(-len(group) // MOST_LINES)
        size = -(-len(group) // max(parts, 1))
        groups += [group[i * size : (i + 1) * size] for i in range(parts)]
    return groups


def look(model: str) -> dict[str, Any]:
    """Colour, line and label of a model; dashed where its writes start near zero."""
    base = model.removesuffix("_closed")
    style = "-" if base == model else "--"
    return {"color": COLOURS.get(base), "linestyle": style, "label": title_of(model)}


def curves(axes: Axes, lines: Sequence[tuple[Curve, Mapping[str, Any]]]) -> None:
    """Draws lines with bands of one deviation over seeds or repetitions.

    Args:
      axes: of a panel.
      lines: each with how it looks.

    Raises:
      ValueError: there are more than can be told apart.
    """
    if len(lines) > MOST_LINES:
        raise ValueError(f"a panel shows at most {MOST_LINES} lines, got {len(lines)}")
    for curve, shown in lines:
        places, means = list(curve), np.array([mean for mean, _ in curve.values()])
        spread = np.array([std or 0.0 for _, std in curve.values()])
        drawn = axes.plot(places, means, **{"marker": "o", "markersize": 3, **shown})[0]
        low, high, colour = means - spread, means + spread, drawn.get_color()
        axes.fill_between(places, low, high, color=colour, alpha=0.13, linewidth=0)
    axes.grid(alpha=0.3)


def along(
    model: Mapping[str, Any], path: Sequence[str], places: Iterable[Any], scale: float = 1.0
) -> Curve:
    """A judged number by place: the last name of its path.

    Args:
      model: of a study.
      path: names that lead to the places.
      places: numbers.
      scale: factor on the number.
    """
    found = {}
    for place in places:
        mean, std = number(model, (*path, str(place)))
        found[float(place)] = (scale * mean, None if std is None else scale * std)
    return found


def lengths(axes: Axes, ticks: Sequence[float], label: str, trained: float | None = None) -> None:
    """An axis of lengths, doubled from tick to tick.

    Args:
      axes: of a panel.
      ticks: lengths.
      label: of the axis.
      trained: the longest of training, which gets a dotted line.
    """
    if trained is not None:
        axes.axvline(trained, color="grey", linestyle=":", linewidth=1, label="longest trained")
    axes.set_xscale("log", base=2)
    axes.set_xticks(list(ticks), [_short(tick) for tick in ticks])
    axes.set_xlabel(label)


def _short(length: float) -> str:
    if length >= 10**6 and length % 10**6 == 0:
        return f"{length / 10**6:g}M"
    thousands = length / 1024
    if length < 1024 or not thousands.is_integer():
        return f"{length:g}"
    return f"{thousands:g}K" if thousands < 1024 else f"{thousands / 1024:g}M"


def percent(axes: Axes, label: str = "") -> None:
    """An axis from 0 to 100 per cent."""
    axes.set_ylim(-3, 103)
    axes.set_ylabel(label)


def legend(figure: Figure, panel: Axes) -> None:
    """A legend of a panel's lines, on the right of the figure."""
    handles, labels = panel.get_legend_handles_labels()
    if handles:
        figure.legend(handles, labels, loc="outside right center", fontsize="small")


def legend_beside(panel: Axes) -> None:
    """A legend of a panel's lines, on its right."""
    panel.legend(loc="center left", bbox_to_anchor=(1.02, 0.5), fontsize="small")


def legend_below(panel: Axes) -> None:
    """A legend of a panel's lines, below its label."""
    panel.legend(loc="upper center", bbox_to_anchor=(0.5, -0.16), ncols=2, fontsize="small")


def dots(
    axes: Axes,
    names: Sequence[str],
    values: Mapping[str, tuple[float, float | None]],
    colours: Mapping[str, Any],
) -> None:
    """A row for each name, with a dot and a bar of one deviation.

    Args:
      axes: of a panel.
      names: of the rows, the first at the bottom.
      values: of the names that have one.
      colours: of the dots; black where there is none.
    """
    for place, name in enumerate(names):
        if name in values:
            mean, std = values[name]
            colour = colours.get(name, "black")
            axes.errorbar(mean, place, xerr=std or 0.0, fmt="o", capsize=2, color=colour)
    axes.set_yticks(range(len(names)), [title_of(name) for name in names])
    axes.set_ylim(-0.6, len(names) - 0.4)
    axes.grid(alpha=0.3)


def shades(count: int) -> list[Any]:
    """Colours of an ordered quantity, light to dark."""
    return [
        matplotlib.colormaps["viridis"](0.85 - 0.8 * i / max(count - 1, 1)) for i in range(count)
    ]
