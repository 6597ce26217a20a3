"""The table and the picture of the ablation, made from its results JSON."""

from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")

from matplotlib import pyplot as plt
from matplotlib.axes import Axes

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
    text, needles, streams = results["text"], results["needles"], results["streams"]
    studies = [study for study in (text, needles, streams) if study]
    lines = ["# Ablation", "", *origin(results, studies), ""]
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
        *_stream_lines(streams),
        "",
    ]
    places = _places(streams)
    header = [
        "case",
        *(f"{t}, bits/byte" for t in tests),
        *(f"{NAMES[name]} at {length}" for name, length in asked),
        *(f"stream to {place}, bits/byte" for place in places),
        "paper: ppl",
        "paper: long context",
    ]
    rows = []
    for name in dict.fromkeys([*text["models"], *needles["models"], *_models(streams)]):
        row = [name, *(_bits(done, name, test) for test in tests)]
        found = needles["models"].get(name)
        row += [entry(found, ("accuracy", *one), 100, 0) if found else "" for one in asked]
        read = _models(streams).get(name)
        row += [entry(read, ("bits", place)) if read else "" for place in places]
        row += [f"{v:.2f}" for v in PAPER[name]] if name in PAPER else ["", ""]
        rows.append(row)
    lines += [*table(header, rows), "", *_verdict(results, done, tests[0])]
    lines += [
        "Selection by rate (bits per byte of held-out ends of the books; nats of a needle's value):",
        "",
    ]
    return "\n".join([*lines, *rates({"text": text}), "", *rates({"needles": needles}), ""])


def _models(streams: dict[str, Any] | None) -> dict[str, Any]:
    return streams["models"] if streams else {}


def _places(streams: dict[str, Any] | None) -> list[str]:
    """An early and the last position of the streams."""
    if not streams:
        return []
    tokens = streams["task"]["tokens"]
    return [str(place) for place in dict.fromkeys((min(65_536, tokens), tokens))]


def _stream_lines(streams: dict[str, Any] | None) -> list[str]:
    if not streams:
        return []
    task, study = streams["task"], streams["config"]
    return [
        "",
        f"Streams: models trained for {study['steps']} steps of {task['batch_size']} x {task['length']} tokens with "
        f"the memory carried on, at the rate {study['learning_rates'][0]:g} with the seeds "
        f"{', '.join(map(str, study['seeds']))}; then they read {task['tokens']:,} tokens of held-out text as one "
        "stream. Bits per byte from half of the position to it.",
    ]


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
    """Which of the paper's five components are worth something here, on each measure."""
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
        read = {n: m for n, m in _models(results["streams"]).items() if m["mean"] is not None}
        if {name, "base"} <= set(read):
            for place in _places(results["streams"]):
                left, right = (number(read[n], ("bits", place))[0] for n in (name, "base"))
                parts.append(f"{left - right:+.3f} bits per byte of the stream to {place}")
        if parts:
            lines.append(f"* {name}: {', '.join(parts)}")
    return ["The paper's five components, each left out:", "", *lines, ""] if lines else []


def plot(results: dict[str, Any], path: Path) -> None:
    """Bits per byte, needles at the longest distance, and the end of the stream, case by case; below, the streams."""
    task = results["needles"]["task"]
    length = str(task["test_lengths"][-1])
    streams = results["streams"]
    text, needles, read = (
        {n: m for n, m in models.items() if m["mean"] is not None}
        for models in (results["text"]["models"], results["needles"]["models"], _models(streams))
    )
    test = Path(next(iter(results["text"]["task"]["tests"]), "")).stem
    panels: list[tuple[dict[str, Any], tuple[str, ...], int, str]]
    panels = [(text, ("bits_per_byte", test), 1, f"bits per byte, {test}")]
    for kind in task["tasks"]:
        label = f"{NAMES[kind]} at {length} tokens, %"
        panels.append((needles, ("accuracy", kind, length), 100, label))
    if read:
        last = _places(streams)[-1]
        panels.append((read, ("bits", last), 1, f"bits per byte, stream to {int(last):,}"))
    names = list(dict.fromkeys([*text, *needles, *read]))[::-1]
    height = 0.33 * len(names) + 1.5
    figure = plt.figure(
        figsize=(2 + 3.2 * len(panels), height + (4 if read else 0)), layout="constrained"
    )
    grid = figure.add_gridspec(2, len(panels), height_ratios=(height, 4 if read else 1e-6))
    row = [figure.add_subplot(grid[0, 0])]
    row += [figure.add_subplot(grid[0, i], sharey=row[0]) for i in range(1, len(panels))]
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
        axes.tick_params(labelleft=axes is row[0])
    row[0].set_yticks(range(len(names)), names)
    if read:
        _curves(read, figure.add_subplot(grid[1, :]))
    figure.savefig(path, dpi=120)
    plt.close(figure)


def _curves(read: dict[str, Any], axes: Axes) -> None:
    """Bits per byte of the streams by position: the base and those without a component.

    Not the first hundredth: a book may begin with pages of contents, and a memory has learned little there.
    """
    for name, model in read.items():
        if name != "base" and name not in COMPONENTS:
            continue
        bits = {int(place): value for place, value in model["mean"]["bits"].items()}
        bits = {place: value for place, value in bits.items() if 128 * place >= max(bits)}
        line = axes.plot([*bits], [*bits.values()], "o-", markersize=3, label=name)[0]
        if name == "base":
            line.set(color="black", linewidth=2)
    axes.set_xscale("log", base=2)
    axes.set(xlabel="tokens read", ylabel="bits per byte of the stream")
    axes.grid(alpha=0.3)
    axes.legend(fontsize="small")
