"""The page and the picture of a task of DNA."""

from typing import Any

import numpy as np
from matplotlib.figure import Figure

from experiments.comparison import page, picture
from experiments.genomics.classifiers import TITLES
from experiments.genomics.tasks import PAPER, sizes_line

DEMONSTRATION = (
    "A demonstration, not a reproduction: the official test part alone, split anew, so that about a quarter of the "
    "benchmark's training data is there and the published numbers are not comparable."
)


#: Colours of the models that are no variants of a language model.
_COLOURS = {**picture.COLOURS, "cnn": "0.4", "pretrained": "C8"}
MEASURES = (
    ("accuracy", 100, 1),
    ("mcc", 1, 3),
    ("log_loss", 1, 3),
    ("calibration_error", 1, 3),
)


def body(results: dict[str, Any]) -> list[str]:
    """How well every model classifies, what every rate gave, and what the paper says."""
    task, config = results["task"], results["config"]
    header = ["model", "parameters", "epochs", "rate", "seeds", "accuracy, %", "MCC", "log loss",
              "calibration error", "CPU-s per training"]  # fmt: skip
    rates = [f"rate {rate:g}" for rate in config["rates"]]
    lines = [
        *([DEMONSTRATION, ""] if task["demonstration"] else []),
        f"{sizes_line(task)}. {_leaks(task)} "
        f"The largest class is {100 * task['largest_class']['test']:.1f} % of the test.",
        "",
        *page.table(header, [_row(name, m, config) for name, m in results["models"].items()]),
        "",
        f"Mean ± standard deviation over the seeds {config['seeds']}, each with parameters, order and strands of its "
        "own; the split is the same. Calibration error: mean distance of confidence and accuracy over tenths of the "
        "test.",
        "",
        f"Log loss on validation at every rate (seed {config['seeds'][0]}), of which the least was chosen:",
        "",
        *page.table(["model", *rates], [_sweep(n, m, rates) for n, m in results["models"].items()]),
        "",
        _paper(task),
        "",
        *page.origin_lines([results["origin"]]),
    ]
    if not results["complete"]:
        lines.append("**Not complete**: trainings are missing; the same command continues.")
    return lines


def _row(name: str, model: dict[str, Any], config: dict[str, Any]) -> list[str]:
    return [
        TITLES[name],
        f"{model['parameters']:,}",
        str(config["epochs"][name]),
        "diverged" if model["best"] is None else model["best"].removeprefix("rate "),
        str(len(page.judged(model))),
        *(page.entry(model, (measure,), scale, digits) for measure, scale, digits in MEASURES),
        f"{model['cpu_seconds']:.0f}",
    ]


def _sweep(name: str, model: dict[str, Any], rates: list[str]) -> list[str]:
    found = [model["sweep"].get(rate, "-") for rate in rates]
    cells = ["diverged" if v is None else v if v == "-" else f"{v:.4f}" for v in found]
    return [TITLES[name], *cells]


def figure(results: dict[str, Any]) -> Figure | None:
    """Accuracy of the models, and accuracy against confidence, both on the test part."""
    models = page.done(results)
    if not models:
        return None
    title = f"DNA: {results['task']['name']}"
    drawn, axes = picture.panels(1, 2, title, size=(4.2, 3.6))
    left, right = axes[0]
    right.plot([0.5, 1], [0.5, 1], color="grey", linestyle=":", linewidth=1, label="calibrated")
    for place, (name, model) in enumerate(list(models.items())[::-1]):
        seeds = page.judged(model)
        left.plot(
            [100 * seed["accuracy"] for seed in seeds],
            [place] * len(seeds),
            "o",
            color=_COLOURS[name],
            alpha=0.5,
        )
        left.plot(100 * np.mean([seed["accuracy"] for seed in seeds]), place, "|",
                  color=_COLOURS[name], markersize=18)  # fmt: skip
        curves = [np.array(seed["calibration"]) for seed in seeds]
        length = min(len(curve) for curve in curves)
        confidence, accuracy = np.mean([curve[-length:] for curve in curves], axis=0).T
        right.plot(
            confidence, accuracy, "o-", color=_COLOURS[name], label=TITLES[name], markersize=3
        )
    left.set_yticks(range(len(models)), [TITLES[name] for name in models][::-1])
    left.set_ylim(-0.6, len(models) - 0.4)
    largest = 100 * results["task"]["largest_class"]["test"]
    least = min(largest, *(100 * s["accuracy"] for m in models.values() for s in page.judged(m)))
    left.axvline(largest, color="grey", linestyle=":", linewidth=1)
    left.set_xlim(10 * (least // 10), 100)
    left.grid(alpha=0.3)
    left.set(
        xlabel="test accuracy, % (dots: seeds, bar: mean)",
        title="right classes (dotted: the largest class)",
    )
    right.set(xlabel="confidence, by tenths of the test", ylabel="accuracy", title="calibration")
    right.grid(alpha=0.3)
    picture.legend(drawn, right)
    return drawn


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


REPORT = page.Report(lambda results: f"DNA: {results['task']['name']}", body, figure)
