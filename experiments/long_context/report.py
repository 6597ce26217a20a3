"""The table and the picture of a long stream."""

import math
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")

from matplotlib import pyplot as plt
from matplotlib.lines import Line2D

COLOURS = {"lmm": "C0", "mac": "C1", "mag": "C2", "mal": "C3", "transformer": "0.4"}
STYLES: dict[str, Any] = {
    "learning": "-",
    "frozen": ":",
    "frozen late": "-.",
    "reset": "--",
    "full attention": "-",
}

MODE_NAMES = {
    "learning": "learning",
    "frozen": "frozen at its start",
    "frozen late": "frozen from 64K tokens on",
    "reset": "started anew",
}

#: The end of a stream is compared with this position.
REFERENCE = 65_536


def memory_ratio(rows: list[dict[str, Any]], end: int) -> float:
    """Resident memory at the end against `REFERENCE` (or a shorter stream's end), the largest over the variants."""
    learning = [row for row in rows if row["mode"] == "learning"]
    at = {(row["variant"], row["position"]): row["resident_mib"] for row in learning}
    reference = min(REFERENCE, end)
    return max(at[v, end] / at[v, reference] for v in {row["variant"] for row in learning})


def crossing(rows: list[dict[str, Any]], name: str) -> float | None:
    """The length from which on `name` is faster than full attention; None if it is not at the longest.

    Args:
      rows: seconds by variant, per length.
      name: of the variant.
    """
    gaps = [math.log(row[name] / row["transformer"]) for row in rows]
    if gaps[-1] >= 0:
        return None
    last = max((i for i, gap in enumerate(gaps) if gap >= 0), default=None)
    if last is None:
        return float(rows[0]["length"])  # faster at every measured length
    share = gaps[last] / (gaps[last] - gaps[last + 1])
    low, high = (math.log(rows[i]["length"]) for i in (last, last + 1))
    return math.exp(low + share * (high - low))


def markdown(result: dict[str, Any]) -> str:
    """Two tables: time and memory per token with the memory learning, and the loss in all three modes."""
    rows = result["rows"]
    positions = sorted({row["position"] for row in rows})
    names = list(dict.fromkeys(row["variant"] for row in rows))
    titans = [name for name in names if name != "transformer"]
    cells = {(row["variant"], row["mode"], row["position"]): row for row in rows}
    steps = sorted(set(result["train_steps"].values()))

    def cell(variant: str, mode: str, position: int, field: str, scale: float, digits: int) -> str:
        row = cells.get((variant, mode, position))
        return f"{row[field] * scale:.{digits}f}" if row else ""

    def mode_of(variant: str) -> str:
        return "full attention" if variant == "transformer" else "learning"

    lines = [
        "# Long context",
        "",
        f"    {result['command'].strip()}",
        "",
        f"{result['machine']}; jax {result['versions']['jax']}; {result['seconds']:.0f} seconds for the streams. "
        f"Byte-level models trained for {' or '.join(map(str, steps))} steps (seed {result['seeds'][0]}), on held-out "
        f"text, {result['block']} tokens per call. A row is the octave that ends at the position: medians of time "
        "and memory, means of loss. Full attention: a stream of its own for each length, with a cache of that length.",
        "",
        f"`tokens={result['tokens']} time_ratio={result['time_ratio']:.3f} memory_ratio={result['memory_ratio']:.3f}`",
        "",
        "Time per token at the end over that at 64K tokens, blocks of both in turns: "
        + ", ".join(f"{name} {ratio:.3f}" for name, ratio in result["time_ratios"].items())
        + ".",
        "",
        "Microseconds per token, and resident memory of the process in MiB, the memory learning:",
        "",
        "| position | " + " | ".join(names) + " | " + " | ".join(f"{n}, MiB" for n in names) + " |",
        "|" + "---|" * (1 + 2 * len(names)),
    ]
    for position in positions:
        times = [cell(n, mode_of(n), position, "microseconds", 1, 2) for n in names]
        memory = [cell(n, mode_of(n), position, "resident_mib", 1, 0) for n in names]
        lines.append(f"| {position:,} | " + " | ".join(times + memory) + " |")
    modes = [
        m
        for m in ("learning", "frozen", "frozen late", "reset")
        if any(r["mode"] == m for r in rows)
    ]
    lines += [
        "",
        "Bits per byte; the memory learning / frozen at its start / frozen from 64K tokens on / started anew every "
        f"{result['reset_every']} tokens:",
        "",
        "| position | " + " | ".join(names) + " |",
        "|" + "---|" * (1 + len(names)),
    ]
    scale = 1 / math.log(2)
    for position in positions:
        texts = [" / ".join(cell(n, m, position, "nats", scale, 3) for m in modes) for n in titans]
        if "transformer" in names:
            texts.append(cell("transformer", "full attention", position, "nats", scale, 3))
        lines.append(f"| {position:,} | " + " | ".join(texts) + " |")
    return "\n".join(lines) + "\n"


def plot(result: dict[str, Any], path: Path) -> None:
    """Time per token, resident memory and loss against position."""
    figure, axes = plt.subplots(1, 3, figsize=(15, 4.5), layout="constrained")
    series: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for row in result["rows"]:
        series.setdefault((row["variant"], row["mode"]), []).append(row)
    for (variant, mode), rows in series.items():
        x = [row["position"] for row in rows]
        look = {
            "color": COLOURS[variant],
            "linestyle": STYLES[mode],
            "marker": ".",
            "markersize": 4,
        }
        whole = mode in ("learning", "full attention")
        name = f"{variant}, full attention" if variant == "transformer" else variant
        if whole:
            axes[0].plot(x, [row["microseconds"] for row in rows], label=name, **look)
            axes[1].plot(x, [row["resident_mib"] for row in rows], label=name, **look)
        axes[2].plot(x, [row["nats"] / math.log(2) for row in rows], **look)
    # The start of a text, such as a list of its contents, would flatten all that follows.
    end = min(REFERENCE, result["tokens"])
    settled = [row["nats"] / math.log(2) for row in result["rows"] if row["position"] >= end]
    highest = max(settled)
    titles = (
        ("Time per token", "microseconds"),
        ("Resident memory of the process", "MiB"),
        (f"Loss (scale of {end // 1024}K tokens and later)", "bits per byte"),
    )
    for axis, (title, unit) in zip(axes, titles, strict=True):
        axis.set_xscale("log", base=2)
        axis.set_xlabel("position in the text (tokens)")
        axis.set_ylabel(unit)
        axis.set_title(title)
        axis.grid(alpha=0.3)
    axes[0].set_ylim(bottom=0)
    axes[1].set_ylim(bottom=0)
    axes[0].legend(fontsize=8)
    least = min(settled)
    axes[2].set_ylim(least - 0.05 * (highest - least), highest + 0.4 * (highest - least))
    names = MODE_NAMES | {"reset": f"started anew every {result['reset_every']} tokens"}
    shown = dict.fromkeys(mode for _, mode in series if mode in names)
    lines = [
        Line2D([], [], color="0.2", linestyle=STYLES[mode], label=names[mode]) for mode in shown
    ]
    axes[2].legend(
        handles=lines, fontsize=8, loc="upper right", title="memory (colours as on the left)"
    )
    figure.savefig(path, dpi=110)
    plt.close(figure)
