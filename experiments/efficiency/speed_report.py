"""The table and the picture of training speed, made from its results JSON."""

from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")

from matplotlib import pyplot as plt

from experiments.comparison.report import table


def markdown(results: dict[str, Any]) -> str:
    """The page: tokens/s and memory by length, then the static estimate."""
    speed, tpu, config = results["speed"], results["tpu"], results["config"]
    lines = [
        "# Training speed against length",
        "",
        "Written by:",
        "",
        f"    {results['command']}",
        "",
    ]
    if not speed:
        return "\n".join(lines)
    rows = [*speed, *tpu]
    hours = sum(row["wall_seconds"] for row in rows) / 3600
    sizes = [row["parameters"] for row in speed]
    commits = sorted({row["commit"][:12] for row in rows})
    lines += [
        f"{min(sizes):,} to {max(sizes):,} parameters, {config['tokens_per_step']:,} tokens per step, "
        f"{config['model']['dtype']}; median of {config['repeats']} steps ± deviation. Machine: {speed[0]['machine']}; "
        f"jax {speed[0]['versions']['jax']}; {hours:.2f} hours; commit {', '.join(commits)}.",
    ]
    errors = sorted({row["error"] for row in speed if "error" in row})
    if errors:
        lines.append(f"**Not from a clean checkout** ({'; '.join(errors)}).")
    cells = {(row["model"], row["length"]): row for row in speed}
    names = list(dict.fromkeys(row["model"] for row in speed))
    lengths = sorted({row["length"] for row in speed})
    header = ["tokens/s", *(f"{n:,} x {config['tokens_per_step'] // n}" for n in lengths)]
    found = [
        [
            name,
            *(
                f"{cells[name, n]['tokens_per_second']:,.0f} ± {cells[name, n]['std']:,.0f}"
                for n in lengths
            ),
        ]
        for name in names
    ]
    lines += [
        "",
        *table(header, found),
        "",
        "What XLA's buffers for a step take (parameters, optimizer, activations):",
        "",
    ]
    memory = [
        [name, *(f"{cells[name, n]['bytes'] / 2**20:,.0f}" for n in lengths)] for name in names
    ]
    lines += table(["MiB", *header[1:]], memory)
    if tpu:
        lines += [
            "",
            f"The {config['tpu_preset']} presets' own training step (0.5 million tokens) on {config['tpu_topology']}: "
            "**static estimates** of the compile report, nothing was run.",
            "",
            *table(
                ["model", "HBM per chip, GiB", "step, s", "tokens/s", "limit"],
                [_tpu(row) for row in tpu],
            ),
        ]
    return "\n".join([*lines, ""])


def _tpu(row: dict[str, Any]) -> list[str]:
    if "failed" in row:
        return [row["model"], row["failed"], "", "", ""]
    memory = f"{row['hbm_bytes_per_chip'] / 2**30:.2f} of {row['hbm_limit'] / 2**30:.0f}"
    if not row["fits"]:
        return [row["model"], f"{memory}: too large", "", "", ""]
    parts = {
        part: row[f"static_{part}_seconds"]
        for part in ("compute", "hbm", "interconnect", "network")
    }
    seconds = row["static_step_seconds"]
    return [
        row["model"],
        memory,
        f"{seconds:.4f}",
        f"{row['tokens_per_second']:,.0f}",
        max(parts, key=lambda p: parts[p]),
    ]


def plot(results: dict[str, Any], path: Path) -> None:
    """Tokens a second against length."""
    figure, axes = plt.subplots(figsize=(7, 5), layout="constrained")
    speed = results["speed"]
    baselines = 0
    for name in dict.fromkeys(row["model"] for row in speed):
        rows = [row for row in speed if row["model"] == name]
        style = "-"
        if name not in ("lmm", "mac", "mag", "mal"):
            style = "--" if baselines < 6 else ":"  # colours return after ten models
            baselines += 1
        axes.errorbar(
            [row["length"] for row in rows],
            [row["tokens_per_second"] for row in rows],
            yerr=[row["std"] for row in rows],
            fmt=f"o{style}",
            markersize=3,
            label=name,
        )
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    axes.set(xlabel="tokens of a sequence, at equal tokens per step", ylabel="training tokens/s")
    axes.grid(alpha=0.3)
    if speed:
        axes.legend(fontsize="x-small", ncol=2)
    figure.savefig(path, dpi=120)
    plt.close(figure)
