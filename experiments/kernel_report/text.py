"""The report's rows as a text table for the terminal and as a markdown page."""

import importlib.metadata
from collections.abc import Callable
from typing import Any

import jax

from experiments.kernel_report.shapes import GROUPS, LENGTH

Row = dict[str, Any]

LABEL = "Static estimates by the compiler, not measurements. Bundles and cycles are per tile of one head."


def _number(value: float) -> str:
    return f"{value:,.0f}"


def _percent(value: float) -> str:
    return f"{100 * value:.0f} %"


def _ratio(value: float) -> str:
    return f"{value:.2f}"


#: Heading, key of the row, and how it is written.
COLUMNS: tuple[tuple[str, str, Callable[[Any], str]], ...] = (
    ("chip", "topology", str),
    ("d_head", "d_head", str),
    ("depth", "depth", str),
    ("exp.", "expansion", str),
    ("chunk", "chunk", str),
    ("anchor", "anchor", str),
    ("pass", "direction", str),
    ("bundles", "bundles", _number),
    ("bound", "bound_cycles", _number),
    ("of bound", "utilisation", _percent),
    ("with waits", "cycles", _number),
    ("of bound", "utilisation_with_waits", _percent),
    ("matrix slots", "matrix_slots_used", _percent),
    ("spills", "spill_stores", _number),
    ("HBM B/token", "hbm_bytes_per_token", _number),
    ("compulsory", "compulsory_bytes_per_token", _number),
    ("HBM time", "hbm_time_ratio", _percent),
    ("VMEM MiB", "vmem_bytes", lambda value: f"{value / 2**20:.1f}"),
    ("XLA / kernel", "xla_cycles_ratio", _ratio),
    ("both passes", "xla_cycles_ratio_both", _ratio),
    ("error / XLA's", "error_ratio", _ratio),
)

LEGEND = """\
tile: a chunk of at most 256 tokens; with the anchor "token" of at most 128, and a bound that has its own system.
bundles: of the final schedule, one pass of the kernel's grid loop. bound: cycles of the memory's matmuls if all
matrix units of a core were always busy (backward: three times forward). of bound: bound / bundles. with waits:
bundles and the cycles in which the schedule waits for a result. matrix slots: the compiler's count of those in use.
spills: vector registers stored. HBM B/token: by the block specs, saved carries included. compulsory: every argument
and result once, without padding. HBM time: at the chip's bandwidth, over the time of the bundles. XLA / kernel: the
compiler's estimate for the same step under lax.scan, over bundles; both passes: forward and backward together. error
/ XLA's: error against a float64 oracle, over that of XLA at default precision."""


def versions() -> str:
    """The packages that decide the figures."""
    return f"jax {jax.__version__}, libtpu {importlib.metadata.version('libtpu')}"


def table(rows: list[Row]) -> str:
    """A table with aligned columns, and every failure's message below it."""
    cells = [[heading for heading, _, _ in COLUMNS], *map(_cells, rows)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    lines = [
        "  ".join(cell.rjust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in cells
    ]
    return "\n".join([*lines, *_failures(rows)])


def page(rows: list[Row], command: str) -> str:
    """The markdown page: command, versions, tables by chip, legend, failures."""
    lines = [
        "# Static report of the TPU kernels",
        "",
        "Written by:",
        "",
        f"    {command}",
        "",
        LABEL,
    ]
    lines += [f"{versions()}. {GROUPS} heads with sequences of {LENGTH} tokens.", "", LEGEND]
    for topology in dict.fromkeys(row["topology"] for row in rows):
        own = [row for row in rows if row["topology"] == topology]
        lines += ["", f"## {topology}", ""]
        lines += ["| " + " | ".join(heading for heading, _, _ in COLUMNS[1:]) + " |"]
        lines += ["|" + "---|" * (len(COLUMNS) - 1)]
        lines += ["| " + " | ".join(_cells(row)[1:]) + " |" for row in own]
        failures = _failures(own)
        lines += ["", "```", *failures, "```"] if failures else []
    return "\n".join([*lines, ""])


def _cells(row: Row) -> list[str]:
    return ["-" if row[key] is None else write(row[key]) for _, key, write in COLUMNS]


def _failures(rows: list[Row]) -> list[str]:
    """What could not be compiled or measured, once per shape and chip."""
    lines = []
    for row in rows:
        if row["direction"] == "forward":
            shape = ", ".join(
                f"{key} {row[key]}" for key in ("d_head", "depth", "expansion", "chunk", "anchor")
            )
            lines += [f"{row['topology']}, {shape}: {message[:2000]}" for message in row["errors"]]
    return lines


def curve_table(points: list[Row]) -> str:
    """Saved bytes against static time, one line per checkpoint_every."""
    lines = ["checkpoint_every  forward  backward     both  saved bytes per token  HBM time"]
    for point in points:
        if point["error"]:
            lines.append(f"{point['checkpoint_every']:>16}  {point['error']}")
            continue
        forward, backward = point["forward_bundles"], point["backward_bundles"]
        lines.append(
            f"{point['checkpoint_every']:>16}  {forward:7,.0f}  {backward:8,.0f}  {forward + backward:7,.0f}"
            f"  {point['saved_bytes_per_token']:21,.0f}  {100 * point['hbm_time_ratio']:6.0f} %"
        )
    return "\n".join(lines)
