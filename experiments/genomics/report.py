"""The page and the picture of a task, made from the results JSON alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np

from experiments.comparison.report import table
from experiments.genomics.models import TITLES
from experiments.genomics.records import best_rate, tested
from experiments.genomics.tasks import PAPER, sizes_line

DEMONSTRATION = (
    "A demonstration, not a reproduction: the official test part alone, split anew, so that about a quarter of the "
    "benchmark's training data is there and the published numbers are not comparable."
)


def models_of(content: dict[str, Any]) -> list[str]:
    """The models with at least one training, in the order of `TITLES`."""
    found = {run["model"] for run in content["runs"]}
    return [name for name in TITLES if name in found]


def markdown(content: dict[str, Any]) -> str:
    """The page of a task.

    Args:
        content: of the results JSON.
    """
    task, settings, runs = content["task"], content["settings"], content["runs"]
    rows = [_row(content, model) for model in models_of(content)]
    sweep = [_sweep(content, model) for model in models_of(content)]
    rates = [f"{rate:g}" for rate in settings["rates"]]
    seconds = sum(run["cpu_seconds"] for run in runs)
    commits = sorted({run["commit"][:10] for run in runs})
    lines = [
        f"# {task['name']}",
        "",
        f"    {content['command']}",
        "",
        *([DEMONSTRATION, ""] if task["demonstration"] else []),
        f"{sizes_line(task)}. {_leaks(task)} "
        f"The largest class is {100 * task['largest_class']['test']:.1f} % of the test.",
        "",
        *table(
            [
                "model",
                "parameters",
                "epochs",
                "rate",
                "seeds",
                "accuracy, %",
                "MCC",
                "log loss",
                "calibration error",
                "CPU-s per training",
            ],
            rows,
        ),
        "",
        f"Mean ± standard deviation over the seeds {settings['seeds']}, each with parameters, order and strands of its "
        "own; the split is the same. Calibration error: mean distance of confidence and accuracy over tenths of the "
        "test.",
        "",
        f"Log loss on validation at every rate (seed {settings['seeds'][0]}), of which the least was chosen:",
        "",
        *table(["model", *rates], sweep),
        "",
        _paper(task),
        "",
        f"{len(runs)} trainings, {seconds / 60:.0f} CPU-minutes, tests not counted. Machine: "
        f"{', '.join(sorted({run['machine'] for run in runs}))}. Commits: {', '.join(commits)}.",
    ]
    return "\n".join(lines) + "\n"


def plot(content: dict[str, Any], path: Path) -> None:
    """Accuracy of every seed, and accuracy against confidence, both on the test part."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 4), layout="constrained")
    right.plot([0.5, 1], [0.5, 1], color="grey", linestyle=":", linewidth=1)
    names = [model for model in models_of(content) if tested(content, model)]
    for place, model in enumerate(names):
        runs, colour = tested(content, model), f"C{list(TITLES).index(model)}"
        values = [100 * run["test"]["accuracy"] for run in runs]
        left.bar(place, np.mean(values), color=colour, alpha=0.4)
        left.plot([place] * len(values), values, "o", color=colour, markersize=4)
        curves = [np.array(run["test"]["calibration"]) for run in runs]
        length = min(len(curve) for curve in curves)
        confidence, accuracy = np.mean([curve[-length:] for curve in curves], axis=0).T
        right.plot(confidence, accuracy, "o-", color=colour, label=TITLES[model], markersize=3)
    left.set_xticks(
        range(len(names)), [TITLES[n] for n in names], rotation=20, ha="right", fontsize=8
    )
    values = [100 * run["test"]["accuracy"] for model in names for run in tested(content, model)]
    if values:
        left.set_ylim(max(0.0, min(values) - 5), min(100.0, max(values) + 2))
        right.legend(fontsize=8)
    left.set_ylabel("test accuracy, % (dots: seeds)")
    right.set_xlabel("confidence in the predicted class, by tenths of the test")
    right.set_ylabel("accuracy")
    left.set_title(content["task"]["name"])
    right.set_title("calibration, mean over seeds")
    figure.savefig(path, dpi=120)
    plt.close(figure)


def _row(content: dict[str, Any], model: str) -> list[str]:
    runs = [run for run in content["runs"] if run["model"] == model]
    done, rate = tested(content, model), best_rate(content, model)
    cells = [
        TITLES[model],
        f"{runs[0]['parameters']:,}",
        str(runs[0]["epochs"]),
        "diverged" if rate is None else f"{rate:g}",
        str(len(done)),
    ]
    for name, scale, digits in (
        ("accuracy", 100, 1),
        ("mcc", 1, 3),
        ("log_loss", 1, 3),
        ("calibration_error", 1, 3),
    ):
        cells.append(_cell([scale * run["test"][name] for run in done], digits))
    return [*cells, f"{np.mean([run['cpu_seconds'] for run in runs]):.0f}"]


def _cell(values: list[float], digits: int) -> str:
    """Mean, and deviation where there are several seeds."""
    if not values:
        return "-"
    mean = f"{np.mean(values):.{digits}f}"
    return mean if len(values) == 1 else f"{mean} ± {np.std(values, ddof=1):.{digits}f}"


def _sweep(content: dict[str, Any], model: str) -> list[str]:
    settings = content["settings"]
    found = {
        run["rate"]: run["selection"]
        for run in content["runs"]
        if run["model"] == model and run["seed"] == settings["seeds"][0]
    }
    cells = [TITLES[model]]
    for rate in settings["rates"]:
        if rate not in found:
            cells.append("-")
        else:
            cells.append("diverged" if found[rate] is None else f"{found[rate]:.4f}")
    return cells


def _leaks(task: dict[str, Any]) -> str:
    if task["demonstration"]:
        return (
            f"Sequences that share 32 nucleotides, on either strand, are in one part ({task['groups']:,} groups; the "
            f"largest, {task['largest_group']:,} sequences, is in the training part)."
        )
    return (
        f"Official parts; {task['test_sharing_32_with_train']:,} test sequences share 32 nucleotides with a training "
        "sequence."
    )


def _paper(task: dict[str, Any]) -> str:
    value = PAPER.get(task["name"])
    if value is None:
        return "The paper has no such task."
    return f"The paper's Table 4 gives {value} % for the LMM on the official data."
