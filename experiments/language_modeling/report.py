"""The table and the picture of the language-modelling experiment, made from its results JSON."""

from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")

from matplotlib import pyplot as plt

from experiments.comparison.report import entry, origin, rates, table

#: The paper's Table 1, 340M parameters and 15B tokens: perplexity on WikiText and LAMBADA, accuracy on LAMBADA and the
#: average of eight tasks.
PAPER = {
    "transformer": (31.52, 41.08, 30.76, 42.92),
    "retnet": (32.50, 49.73, 28.24, 42.54),
    "gla": (28.51, 43.02, 28.73, 44.09),
    "deltanet": (28.65, 47.30, 28.43, 44.04),
    "ttt_linear": (27.44, 34.19, 30.06, 44.51),
    "gated_deltanet": (27.01, 30.94, 34.11, 45.42),
    "lmm": (26.18, 29.97, 34.98, 46.17),
    "mac": (25.43, 28.13, 36.00, 47.36),
    "mag": (25.07, 28.72, 36.71, 47.54),
    "mal": (24.69, 28.80, 35.74, 46.55),
}


def markdown(results: dict[str, Any]) -> str:
    """The page: bits per byte, questions, learning rates."""
    study = results["study"]
    done = {name: model for name, model in study["models"].items() if model["mean"] is not None}
    lines = ["# Language modelling", "", *origin(results, [study]), ""]
    if not done:
        return "\n".join([*lines, ""])
    first = next(iter(done.values()))["mean"]
    task = study["task"]
    seen = study["config"]["steps"] * task["batch_size"] * task["length"]
    lines += [
        f"{seen:,} tokens of training ({task['tokenizer']}), windows of {task['length']} in training and testing. "
        "Beside them the paper's perplexities at 340M parameters and 15B tokens, whose order is all that compares.",
        "",
    ]
    tests = list(first["bits_per_byte"])
    header = [
        "model",
        "parameters",
        *(f"{t}, bits/byte" for t in tests),
        "paper: Wiki ppl",
        "paper: LAMBADA ppl",
    ]
    rows = []
    for name, model in sorted(
        done.items(), key=lambda item: item[1]["mean"]["bits_per_byte"][tests[0]]
    ):
        bits = [entry(model, ("bits_per_byte", test), digits=4) for test in tests]
        paper = [f"{v:.2f}" for v in PAPER[name][:2]] if name in PAPER else ["", ""]
        rows.append([name, f"{model['parameters']:,}", *bits, *paper])
    lines += [*table(header, rows), "", *_diverged(study)]
    if first["questions"]:
        lines += [*_questions(done), ""]
    return "\n".join(
        [
            *lines,
            "Selection (bits per byte of held-out ends of the training books) by rate:",
            "",
            *rates({"text": study}),
            "",
        ]
    )


def _diverged(study: dict[str, Any]) -> list[str]:
    lost = [name for name, model in study["models"].items() if model["mean"] is None]
    return [f"Diverged at every rate: {', '.join(lost)}.", ""] if lost else []


def _questions(done: dict[str, Any]) -> list[str]:
    """Accuracies in percent; of words the perplexity too."""
    first = next(iter(done.values()))["mean"]["questions"]
    columns = []
    for task, metrics in first.items():
        columns += [(task, name) for name in ("acc", "acc_norm", "perplexity") if name in metrics]
    header = ["model", *(f"{task} {name}" for task, name in columns)]
    chance = [
        f"{100 * first[t]['chance']:.1f}" if n.startswith("acc") and "chance" in first[t] else ""
        for t, n in columns
    ]
    rows = [["chance", *chance]]
    for name, model in done.items():
        cells = [
            entry(model, ("questions", t, n), 100 if n.startswith("acc") else 1, 1)
            for t, n in columns
        ]
        rows.append([name, *cells])
    count = max(int(m["questions"]) for m in first.values())
    stderr = max(m["acc_stderr"] for m in first.values())
    lines = [
        f"Zero-shot questions, at most {count} of each file, scored as lm-evaluation-harness does. Models of this size "
        f"answer near chance; one accuracy's standard error is up to {100 * stderr:.1f} points.",
        "",
    ]
    return lines + table(header, rows)


def plot(results: dict[str, Any], path: Path) -> None:
    """Bits per byte of every model on every test, a bar for the deviation over the seeds."""
    done = {n: m for n, m in results["study"]["models"].items() if m["mean"] is not None}
    figure, axes = plt.subplots(figsize=(7, 0.35 * len(done) + 1.5), layout="constrained")
    tests = list(next(iter(done.values()))["mean"]["bits_per_byte"]) if done else []
    names = sorted(done, key=lambda n: -done[n]["mean"]["bits_per_byte"][tests[0]])
    for test in tests:
        means = [done[n]["mean"]["bits_per_byte"][test] for n in names]
        deviations = [
            (done[n]["std"] or {"bits_per_byte": {test: 0}})["bits_per_byte"][test] for n in names
        ]
        axes.errorbar(means, range(len(names)), xerr=deviations, fmt="o", label=test)
    axes.set_yticks(range(len(names)), names)
    axes.set(xlabel="bits per byte (mean and deviation over seeds)")
    if tests:
        axes.legend(fontsize="small")
    axes.grid(alpha=0.3)
    figure.savefig(path, dpi=120)
    plt.close(figure)
