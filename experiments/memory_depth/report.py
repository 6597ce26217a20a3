"""The tables and the picture of the memory-depth experiment, made from its results JSON."""

from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")

from matplotlib import pyplot as plt

from experiments.comparison.report import entry, origin, rates, table

STUDIES = {"one_size": "at equal parameters", "one_width": "at equal feed-forward width"}


def markdown(results: dict[str, Any]) -> str:
    """The page: loss by depth and length, then speed."""
    studies = [results[name] for name in STUDIES]
    task = studies[0]["task"]
    lengths = [str(n) for n in task["lengths"]]
    lines = ["# Depth of the memory", "", *origin(results, studies), ""]
    for name, title in STUDIES.items():
        done = {d: m for d, m in results[name]["models"].items() if m["mean"] is not None}
        if not done:
            continue
        tests = list(next(iter(done.values()))["mean"]["bits_per_byte"])
        for test in tests:
            lines += [
                f"Bits per byte of {test}, {title}, trained in windows of {task['length']}, tested in windows of:",
                "",
            ]
            rows = [
                [
                    depth,
                    f"{model['parameters']:,}",
                    *(entry(model, ("bits_per_byte", test, n), digits=4) for n in lengths),
                ]
                for depth, model in done.items()
            ]
            lines += [*table(["L_M", "parameters", *lengths], rows), ""]
    speed = {(row["depth"], row["length"]): row for row in results["speed"]}
    if speed:
        timed = sorted({length for _, length in speed})
        rows = [
            [
                depth,
                *(
                    f"{speed[depth, n]['tokens_per_second']:,.0f} ± {speed[depth, n]['std']:,.0f}"
                    for n in timed
                ),
            ]
            for depth in dict.fromkeys(depth for depth, _ in speed)
        ]
        lines += [
            "Training tokens/s, at equal feed-forward width and equal tokens per step, by sequence length:",
            "",
        ]
        lines += [*table(["L_M", *map(str, timed)], rows), ""]
    lines += ["Selection (bits per byte of held-out ends of the training books) by rate:", ""]
    titled = {title: results[name] for name, title in STUDIES.items()}
    return "\n".join([*lines, *rates(titled), ""])


def plot(results: dict[str, Any], path: Path) -> None:
    """Bits per byte against length at equal parameters, and speed against length."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 4), layout="constrained")
    test = ""
    for name, style in (("one_size", "-"), ("one_width", ":")):
        for number, (depth, model) in enumerate(results[name]["models"].items()):
            if model["mean"] is None:
                continue
            test = next(iter(model["mean"]["bits_per_byte"]))
            bits = model["mean"]["bits_per_byte"][test]
            label = f"L_M = {depth}" if name == "one_size" else None
            left.plot(
                [int(n) for n in bits],
                list(bits.values()),
                f"o{style}",
                color=f"C{number}",
                label=label,
            )
    for number, depth in enumerate(dict.fromkeys(row["depth"] for row in results["speed"])):
        rows = [row for row in results["speed"] if row["depth"] == depth]
        right.errorbar(
            [row["length"] for row in rows],
            [row["tokens_per_second"] for row in rows],
            yerr=[row["std"] for row in rows],
            fmt="o-",
            color=f"C{number}",
            label=f"L_M = {depth}",
        )
    left.set(
        xlabel="tokens of a window",
        ylabel=f"bits per byte, {test}",
        title="solid: equal parameters; dotted: equal width",
    )
    right.set(xlabel="tokens of a sequence", ylabel="training tokens/s")
    for axes in (left, right):
        axes.set_xscale("log", base=2)
        axes.grid(alpha=0.3)
        if axes.has_data():
            axes.legend(fontsize="small")
    figure.savefig(path, dpi=120)
    plt.close(figure)
