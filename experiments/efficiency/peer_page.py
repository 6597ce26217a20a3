"""The comparison's rows as text: for the terminal while it runs, and as a markdown page."""

from typing import Any

from experiments.comparison.page import Report
from experiments.efficiency import peer_cases as cases

SIZES = "batch, length, dim, heads, chunk, depth, expansion"
MEMORY_COLUMNS = ("ours", "ours_compiling", *cases.RULES)


def describe_row(row: dict[str, Any]) -> str:
    """One row for the terminal: speeds, ratios, memory."""
    lines = [cases.Case(**row["case"]).label()]
    for which in cases.PASSES:
        speed = {side: row["speed"][side][which]["median"] for side in row["speed"]}
        line = f"  {which:>6}: ours {speed['ours']:9,.0f} tok/s"
        line += f" ({row['matmul_fraction'][which]:.0%} of matmul)"
        for rule in cases.RULES:
            line += f"  {rule} {speed[rule]:9,.0f} -> {row['ratios'][rule][which]:5.2f}x"
        lines.append(line)
    memory = [f"{name} {row['memory'][name] / 2**20:,.0f} MiB" for name in MEMORY_COLUMNS]
    lines.append("  memory: " + "  ".join(memory))
    return "\n".join(lines)


def describe_scaling(row: dict[str, Any]) -> str:
    """One length of the scaling table for the terminal."""
    passes = ", ".join(f"{row[which]:.2f} {which}" for which in cases.PASSES)
    return f"{row['length']:>7} tokens, microseconds per token: {passes}"


def _with_spread(speed: dict[str, float]) -> str:
    return f"{speed['median']:,.0f} ({speed['low']:,.0f} to {speed['high']:,.0f})"


def _speed_table(rows: list[dict[str, Any]]) -> list[str]:
    lines = [
        f"| {SIZES} | pass | ours | of matmul | same rule | ratio | default | ratio |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        for which in cases.PASSES:
            cells = [
                cases.Case(**row["case"]).label(),
                which,
                _with_spread(row["speed"]["ours"][which]),
                f"{row['matmul_fraction'][which]:.0%}",
            ]
            for rule in cases.RULES:
                cells.append(_with_spread(row["speed"][rule][which]))
                cells.append(f"{row['ratios'][rule][which]:.2f}")
            lines.append(f"| {' | '.join(cells)} |")
    return lines


def _memory_table(rows: list[dict[str, Any]]) -> list[str]:
    lines = [
        f"| {SIZES} | ours | with compilation | same rule | default | ours / same |",
        "|---|---|---|---|---|---|",
    ]
    for row in rows:
        cells = [cases.Case(**row["case"]).label()]
        cells += [f"{row['memory'][name] / 2**20:,.0f}" for name in MEMORY_COLUMNS]
        lines.append(f"| {' | '.join(cells)} | {row['memory_ratio']:.2f} |")
    return lines


def _scaling_table(scaling: list[dict[str, Any]]) -> list[str]:
    lines = ["| length | fwd | fwd+bwd |", "|---|---|---|"]
    lines += [f"| {row['length']} | {row['fwd']:.2f} | {row['fwdbwd']:.2f} |" for row in scaling]
    return lines


def body(report: dict[str, Any]) -> list[str]:
    """Machine, tables, the line of means."""
    place, rows = report["machine"], report["rows"]
    fastest = max(row["matmul_flops_per_second"] for row in rows)
    lines = [
        f"{place['accelerator']}{', beside ' if place['accelerator'] else ''}"
        f"{place['processor']}, {place['cores']} cores, Python {place['python']},"
        f" jax {place['jax']}, {place['peer']}, {place['date']}."
        f" Load average before the first row: {place['load']:.2f}."
        f" A large float32 matmul reaches {fastest / 1e9:.0f} GFLOP/s here.",
        "What is compared, and how: the docstring of `experiments/efficiency/compare_peer.py`.",
        "",
        "Tokens/s of the median call, in brackets the quartiles. A ratio is ours over theirs.",
        "",
        *_speed_table(rows),
        "",
        "Peak memory growth, forward + backward, MiB.",
        "",
        *_memory_table(rows),
    ]
    if report["scaling"]:
        case = cases.SCALING_CASE
        lines += [
            "",
            f"Our microseconds per token by length (batch {case.batch}, dim {case.dim},"
            f" {case.heads} heads, chunk {case.chunk}, depth {case.depth}, expansion"
            f" {case.expansion}).",
            "",
            *_scaling_table(report["scaling"]),
        ]
    return [*lines, "", "Ours over theirs:", "", f"    {report['summary']}"]


REPORT = Report(lambda _: "Speed and memory against titans-pytorch", body, lambda _: None)
