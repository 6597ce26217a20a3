"""The table and the picture of the needle experiment, made from its results JSON; the paper's numbers beside them."""

from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")

from matplotlib import pyplot as plt

from experiments.comparison.report import entry, origin, rates, table

NAMES = {"single_1": "PK", "single_2": "N", "single_3": "W"}
#: Table 2 of the paper, accuracy at 2K, 4K, 8K, 16K.
PAPER = {
    "single_1": {
        "TTT": (98.4, 98.8, 98.0, 88.4), "Mamba2": (98.6, 61.4, 31.0, 5.4), "DeltaNet": (96.8, 98.8, 98.6, 71.4),
        "LMM": (99.8, 98.4, 98.2, 96.2), "MAC": (99.2, 98.8, 99.0, 98.4), "MAG": (99.4, 98.0, 97.4, 97.4),
        "MAL": (98.8, 98.6, 98.8, 97.8),
    },
    "single_2": {
        "TTT": (60.2, 36.6, 10.2, 4.4), "Mamba2": (98.4, 55.8, 14.2, 0.0), "DeltaNet": (47.2, 15.4, 12.8, 5.4),
        "LMM": (100.0, 99.8, 93.4, 80.2), "MAC": (99.6, 98.2, 97.6, 97.4), "MAG": (99.2, 98.8, 97.2, 98.6),
        "MAL": (99.8, 98.1, 96.8, 96.4),
    },
    "single_3": {
        "TTT": (78.8, 28.0, 4.4, 0.0), "Mamba2": (42.2, 4.2, 0.0, 0.0), "DeltaNet": (46.2, 20.0, 1.6, 0.0),
        "LMM": (90.4, 89.4, 85.8, 80.6), "MAC": (98.2, 98.2, 95.6, 95.2), "MAG": (98.0, 98.0, 90.2, 88.2),
        "MAL": (98.0, 97.4, 92.0, 90.4),
    },
}  # fmt: skip


def markdown(results: dict[str, Any]) -> str:
    """The page: accuracy by task, model and length, and the paper's."""
    study = results["study"]
    task = study["task"]
    lengths = [str(length) for length in task["test_lengths"]]
    lines = [
        "# Needle in a haystack (RULER S-NIAH)",
        "",
        *origin(results, [study]),
        f"Trained at {', '.join(map(str, task['train_lengths']))} tokens ({task['tokenizer']}){_bare(task)}; "
        f"{task['test_samples']} test samples per task and length (the paper: 500); answers are generated greedily.",
        "",
    ]
    for name in task["tasks"]:
        rows = [
            [model, *(entry(found, ("accuracy", name, n), 100, 1) for n in lengths)]
            for model, found in study["models"].items()
        ]
        lines += [f"{name} (the paper's {NAMES[name]}), here, accuracy in per cent by tokens:", ""]
        lines += [*table(["model", *lengths], rows), ""]
        paper = [[model, *(f"{x:.1f}" for x in row)] for model, row in PAPER[name].items()]
        lines += ["The paper's, of models trained on 4K tokens:", ""]
        lines += [*table(["model", "2K", "4K", "8K", "16K"], paper), ""]
    lines += _by_seed(study)
    length = task["selection_length"]
    lines += [
        f"Selection (loss of answers in {length} tokens of training haystack, nats) by rate:",
        "",
    ]
    return "\n".join([*lines, *rates({"needles": study}), ""])


def _by_seed(study: dict[str, Any]) -> list[str]:
    """Each seed's accuracy at the longest prompts: a mean may mix what learned the task with what did not."""
    task = study["task"]
    length, rows = str(task["test_lengths"][-1]), []
    for model, found in study["models"].items():
        trials = [
            t for t in found["trials"] if t["config"]["learning_rate"] == found["learning_rate"]
        ]
        trials.sort(key=lambda trial: trial["config"]["seed"])
        judged = [t["results"]["accuracy"] if t["results"] else None for t in trials]
        cells = (
            ", ".join("-" if a is None else f"{100 * a[name][length]:.0f}" for a in judged)
            for name in task["tasks"]
        )
        rows.append([model, *cells])
    header = ["model", *(NAMES[name] for name in task["tasks"])]
    return [f"At {length} tokens, seed by seed:", "", *table(header, rows), ""]


def _bare(task: dict[str, Any]) -> str:
    """What is said of bare prompts."""
    if not task["bare_lengths"]:
        return ""
    lengths = ", ".join(map(str, task["bare_lengths"]))
    return f", in turn with bare prompts of {lengths} tokens, which are alone for {task['bare_steps']:,} steps"


def plot(results: dict[str, Any], path: Path) -> None:
    """Accuracy against length, a panel for each task."""
    study = results["study"]
    task = study["task"]
    figure, panels = plt.subplots(
        1, len(task["tasks"]), figsize=(3.6 * len(task["tasks"]) + 1.5, 3.6), sharey=True, squeeze=False,
        layout="constrained",
    )  # fmt: skip
    for axes, name in zip(panels[0], task["tasks"], strict=True):
        for number, (model, found) in enumerate(study["models"].items()):
            if found["mean"] is None:
                continue
            mean = found["mean"]["accuracy"][name]
            lengths, values = [int(n) for n in mean], [100 * value for value in mean.values()]
            axes.plot(lengths, values, "o-", color=_colour(number), label=model, markersize=3)
        axes.axvline(max(task["train_lengths"]), color="grey", linestyle=":", linewidth=1)
        axes.set_xscale("log", base=2)
        axes.set_xticks(task["test_lengths"])
        axes.xaxis.set_major_formatter("{x:.0f}")
        axes.set_ylim(-3, 103)
        axes.set_title(f"{name} ({NAMES[name]})")
        axes.set_xlabel("tokens (dotted: longest trained)")
    panels[0][0].set_ylabel("right answers, %")
    handles, labels = panels[0][0].get_legend_handles_labels()
    if handles:
        figure.legend(handles, labels, loc="outside right center")
    figure.savefig(path, dpi=120)
    plt.close(figure)


def _colour(number: int) -> tuple[float, float, float, float]:
    """Of the twenty colours, ten dark ones and then their light neighbours."""
    return matplotlib.colormaps["tab20"](2 * number % 20 + number // 10)
