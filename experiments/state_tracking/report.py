"""The tables and the picture of the state-tracking experiment, made from its results JSON."""

from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")

from matplotlib import pyplot as plt

from experiments.comparison.report import entry, origin, rates, table


def markdown(results: dict[str, Any]) -> str:
    """The page: accuracy by group, model and length."""
    groups = results["groups"]
    studies = list(groups.values())
    lines = ["# State tracking", "", *origin(results, studies), ""]
    for title, measure in (
        (
            "Right prefix products, per cent of the first L elements' (chance is 100 / order)",
            "element",
        ),
        ("Words of which all first L prefix products are right, per cent", "word"),
    ):
        for name, study in groups.items():
            if not study["models"]:
                continue
            task = study["task"]
            lengths = [str(n) for n in task["test_lengths"]]
            rows = [
                [model, *(entry(found, (measure, n), 100, 1) for n in lengths)]
                for model, found in study["models"].items()
            ]
            lines += [f"{title}: {name}, trained at up to {task['train_length']}, L =", ""]
            lines += [*table(["model", *lengths], rows), ""]
    lines += ["Selection (loss on other words, twice as long as in training) by rate:", ""]
    return "\n".join([*lines, *rates(groups), ""])


def plot(results: dict[str, Any], path: Path) -> None:
    """Accuracy against length, one panel for each group, with the range over the seeds as a band."""
    groups = results["groups"]
    names = list(dict.fromkeys(name for study in groups.values() for name in study["models"]))
    figure, panels = plt.subplots(
        1,
        len(groups),
        figsize=(3 * len(groups) + 1, 3.6),
        sharey=True,
        squeeze=False,
        layout="constrained",
    )
    for axes, (title, study) in zip(panels[0], groups.items(), strict=True):
        for name, model in study["models"].items():
            if model["mean"] is None:
                continue
            mean = model["mean"]["element"]
            lengths, values = [int(n) for n in mean], [100 * v for v in mean.values()]
            colour = f"C{names.index(name)}"
            axes.plot(lengths, values, "o-", color=colour, label=name, markersize=3)
            if model["std"] is not None:
                spread = [100 * v for v in model["std"]["element"].values()]
                low = [v - s for v, s in zip(values, spread, strict=True)]
                high = [min(100.0, v + s) for v, s in zip(values, spread, strict=True)]
                axes.fill_between(lengths, low, high, color=colour, alpha=0.15, linewidth=0)
        axes.axvline(study["task"]["train_length"], color="grey", linestyle=":", linewidth=1)
        axes.set_xscale("log", base=2)
        axes.set_xticks([int(n) for n in study["task"]["test_lengths"]])
        axes.xaxis.set_major_formatter("{x:.0f}")
        axes.set_ylim(0, 103)
        axes.set_title(title)
        axes.set_xlabel("length (dotted: longest trained)")
    panels[0][0].set_ylabel("right prefix products, %")
    handles, labels = panels[0][0].get_legend_handles_labels()
    if handles:
        figure.legend(handles, labels, loc="outside right center")
    figure.savefig(path, dpi=120)
    plt.close(figure)
