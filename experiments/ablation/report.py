"""The table and the picture of the ablation, made from its results JSON."""

from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")

from matplotlib import pyplot as plt

from experiments.ablation.cases import COMPONENTS
from experiments.ablation.recall import KINDS
from experiments.comparison.report import entry, origin, rates, table

#: The paper's Table 5: perplexity and long-context accuracy.
PAPER = {
    "base": (27.01, 92.68),
    "mac": (26.67, 97.95),
    "mag": (25.70, 96.70),
    "mal": (25.91, 96.91),
    "linear memory": (28.49, 85.34),
    "no convolution": (28.73, 90.28),
    "no momentum": (28.98, 87.12),
    "no forgetting": (29.04, 85.60),
    "no persistent memory": (27.63, 92.49),
}


def markdown(results: dict[str, Any]) -> str:
    """The page: one row a case, with its difference to the base."""
    text, recall = results["text"], results["recall"]
    lines = ["# Ablation", "", *origin(results, [text, recall]), ""]
    done = {name: m for name, m in text["models"].items() if m["mean"] is not None}
    if "base" not in done:
        return "\n".join([*lines, "The base is not there yet.", ""])
    tests = list(done["base"]["mean"]["bits_per_byte"])
    lengths = [str(n) for n in recall["task"]["test_lengths"]]
    task = recall["task"]
    lines += [
        f"Bits per byte of held-out text in windows of {text['task']['length']}, difference to the base in brackets; "
        f"and recall of {task['pairs']} pairs in percent, trained for {recall['config']['steps']} steps with the seeds "
        f"{', '.join(map(str, recall['config']['seeds']))}, as far as they are there, at "
        f"{', '.join(map(str, task['train_lengths']))} "
        f"tokens, tested at {', '.join(lengths)} (chance {100 / KINDS:.1f}).",
        "",
    ]
    header = [
        "case",
        *(f"{t}, bits/byte" for t in tests),
        *(f"recall at {n}" for n in lengths),
        "paper: ppl",
        "paper: long context",
    ]
    rows = []
    for name in dict.fromkeys([*text["models"], *recall["models"]]):
        row = [name, *(_bits(done, name, test) for test in tests)]
        recalled = recall["models"].get(name)
        row += [entry(recalled, ("accuracy", n), 100, 1) if recalled else "" for n in lengths]
        row += [f"{v:.2f}" for v in PAPER[name]] if name in PAPER else ["", ""]
        rows.append(row)
    lines += [*table(header, rows), "", *_verdict(results, done, tests[0], lengths[-1])]
    lines += [
        "Selection by rate (bits per byte of held-out ends of the books; nats of a recalled value):",
        "",
    ]
    return "\n".join([*lines, *rates({"text": text}), "", *rates({"recall": recall}), ""])


def _bits(done: dict[str, Any], name: str, test: str) -> str:
    if name not in done:
        return "diverged"
    cell = entry(done[name], ("bits_per_byte", test), digits=4)
    if name == "base":
        return cell
    difference = (
        done[name]["mean"]["bits_per_byte"][test] - done["base"]["mean"]["bits_per_byte"][test]
    )
    return f"{cell} ({difference:+.4f})"


def _verdict(results: dict[str, Any], done: dict[str, Any], test: str, length: str) -> list[str]:
    """Which of the paper's five components are worth something here, on either measure."""
    recall = results["recall"]["models"]
    lines = []
    for name in COMPONENTS:
        parts = []
        if name in done:
            difference = (
                done[name]["mean"]["bits_per_byte"][test]
                - done["base"]["mean"]["bits_per_byte"][test]
            )
            parts.append(f"{difference:+.4f} bits per byte")
        both = [recall.get(n) for n in (name, "base")]
        if all(m and m["mean"] is not None for m in both):
            without, base = (m["mean"]["accuracy"][length] for m in both if m)
            parts.append(f"{100 * (without - base):+.1f} points of recall at {length}")
        if parts:
            lines.append(f"* {name}: {', '.join(parts)}")
    return ["The paper's five components, each left out:", "", *lines, ""] if lines else []


def plot(results: dict[str, Any], path: Path) -> None:
    """Bits per byte and recall at the longest distance, case by case."""
    text = {n: m for n, m in results["text"]["models"].items() if m["mean"] is not None}
    recall = {n: m for n, m in results["recall"]["models"].items() if m["mean"] is not None}
    names = list(dict.fromkeys([*text, *recall]))[::-1]
    figure, (left, right) = plt.subplots(
        1, 2, sharey=True, figsize=(9, 0.33 * len(names) + 1.5), layout="constrained"
    )
    test = next(iter(results["text"]["task"]["tests"]), "")
    test = Path(test).stem
    for axes, models, leads, scale in (
        (left, text, ("bits_per_byte", test), 1),
        (right, recall, ("accuracy", str(results["recall"]["task"]["test_lengths"][-1])), 100),
    ):
        for place, name in enumerate(names):
            if name not in models:
                continue
            mean, std = models[name]["mean"], models[name]["std"]
            for key in leads:
                mean, std = mean[key], None if std is None else std[key]
            colour = "C3" if name in COMPONENTS else "C0" if name == "base" else "0.4"
            error = 0 if std is None else scale * std
            axes.errorbar(scale * mean, place, xerr=error, fmt="o", color=colour)
        if "base" in models:
            value = models["base"]["mean"]
            for key in leads:
                value = value[key]
            axes.axvline(scale * value, linestyle=":", color="C0")
        axes.grid(alpha=0.3)
    left.set_yticks(range(len(names)), names)
    left.set(xlabel=f"bits per byte, {test}")
    right.set(xlabel=f"recall at {results['recall']['task']['test_lengths'][-1]} tokens, %")
    figure.savefig(path, dpi=120)
    plt.close(figure)
