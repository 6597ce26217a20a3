"""The table and the picture of the ablation, made from its results JSON."""

from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")

from matplotlib import pyplot as plt

from experiments.ablation.cases import COMPONENTS
from experiments.comparison.report import entry, number, origin, rates, table
from experiments.needle_in_a_haystack.report import NAMES

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
    text, needles = results["text"], results["needles"]
    lines = ["# Ablation", "", *origin(results, [text, needles]), ""]
    done = {name: m for name, m in text["models"].items() if m["mean"] is not None}
    if "base" not in done:
        return "\n".join([*lines, "The base is not there yet.", ""])
    tests = list(done["base"]["mean"]["bits_per_byte"])
    task, study = needles["task"], needles["config"]
    ends = (task["test_lengths"][0], task["test_lengths"][-1])
    asked = [(name, str(length)) for name in task["tasks"] for length in ends]
    lines += [
        f"Bits per byte of held-out text in windows of {text['task']['length']}, difference to the base in brackets. "
        f"Needles found, in per cent of {task['test_samples']}, in noise (PK) and prose (N), by tokens of the prompt: "
        f"models trained for {study['steps']} steps at {', '.join(map(str, task['train_lengths']))} tokens and the "
        f"rate {', '.join(f'{rate:g}' for rate in study['learning_rates'])} with the seeds "
        f"{', '.join(map(str, study['seeds']))} (experiments/needle_in_a_haystack).",
        "",
    ]
    header = [
        "case",
        *(f"{t}, bits/byte" for t in tests),
        *(f"{NAMES[name]} at {length}" for name, length in asked),
        "paper: ppl",
        "paper: long context",
    ]
    rows = []
    for name in dict.fromkeys([*text["models"], *needles["models"]]):
        row = [name, *(_bits(done, name, test) for test in tests)]
        found = needles["models"].get(name)
        row += [entry(found, ("accuracy", *one), 100, 0) if found else "" for one in asked]
        row += [f"{v:.2f}" for v in PAPER[name]] if name in PAPER else ["", ""]
        rows.append(row)
    lines += [*table(header, rows), "", *_verdict(results, done, tests[0])]
    lines += [
        "Selection by rate (bits per byte of held-out ends of the books; nats of a needle's value):",
        "",
    ]
    return "\n".join([*lines, *rates({"text": text}), "", *rates({"needles": needles}), ""])


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


def _verdict(results: dict[str, Any], done: dict[str, Any], test: str) -> list[str]:
    """Which of the paper's five components are worth something here, on either measure."""
    needles, task = results["needles"]["models"], results["needles"]["task"]
    length, lines = str(task["test_lengths"][-1]), []
    for name in COMPONENTS:
        parts = []
        if name in done:
            difference = (
                done[name]["mean"]["bits_per_byte"][test]
                - done["base"]["mean"]["bits_per_byte"][test]
            )
            parts.append(f"{difference:+.4f} bits per byte")
        without, base = (needles.get(n) for n in (name, "base"))
        if all(m and m["mean"] is not None for m in (without, base)):
            for kind in task["tasks"]:
                leads = ("accuracy", kind, length)
                left, right = (number(m, leads)[0] for m in (without, base))
                parts.append(f"{100 * (left - right):+.0f} points of {NAMES[kind]} at {length}")
        if parts:
            lines.append(f"* {name}: {', '.join(parts)}")
    return ["The paper's five components, each left out:", "", *lines, ""] if lines else []


def plot(results: dict[str, Any], path: Path) -> None:
    """Bits per byte and needles at the longest distance, case by case."""
    task = results["needles"]["task"]
    length = str(task["test_lengths"][-1])
    text, needles = (
        {n: m for n, m in results[study]["models"].items() if m["mean"] is not None}
        for study in ("text", "needles")
    )
    test = Path(next(iter(results["text"]["task"]["tests"]), "")).stem
    panels: list[tuple[dict[str, Any], tuple[str, ...], int, str]]
    panels = [(text, ("bits_per_byte", test), 1, f"bits per byte, {test}")]
    for kind in task["tasks"]:
        label = f"{NAMES[kind]} at {length} tokens, %"
        panels.append((needles, ("accuracy", kind, length), 100, label))
    names = list(dict.fromkeys([*text, *needles]))[::-1]
    figure, row = plt.subplots(
        1, len(panels), sharey=True, figsize=(2 + 3.5 * len(panels), 0.33 * len(names) + 1.5),
        layout="constrained",
    )  # fmt: skip
    for axes, (models, leads, scale, label) in zip(row, panels, strict=True):
        for place, name in enumerate(names):
            if name not in models:
                continue
            mean, std = number(models[name], leads)
            colour = "C3" if name in COMPONENTS else "C0" if name == "base" else "0.4"
            error = 0 if std is None else scale * std
            axes.errorbar(scale * mean, place, xerr=error, fmt="o", color=colour)
        if "base" in models:
            axes.axvline(scale * number(models["base"], leads)[0], linestyle=":", color="C0")
        axes.grid(alpha=0.3)
        axes.set(xlabel=label)
    row[0].set_yticks(range(len(names)), names)
    figure.savefig(path, dpi=120)
    plt.close(figure)
