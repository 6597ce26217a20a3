"""Compiles the kernels for TPUs that are not here and says how good their schedules are: static estimates.

    python -m experiments.kernel_report --topology=v5e:2x2                    a table of memory shapes, tens of minutes
    python -m experiments.kernel_report --topology=v5e:2x2 --preset=400m      one preset's shape, under a minute
    python -m experiments.kernel_report --topology=v5e:2x2 --preset=400m --anchor=token    with the last layer exact
    python -m experiments.kernel_report --topology=v5e:2x2,v6e:2x2 --output=experiments/results/kernels
    python -m experiments.kernel_report --topology=v5e:2x2 --preset=400m --checkpoint_curve

Topologies: v4:2x2x1, v5e:2x2, v5p:2x2x1, v6e:2x2, TPU7x:2x2x1. What a row's figures mean: rows.py. With --json
nothing but a JSON list of the rows is printed. --output writes report.md, report.json and roofline.png into a folder,
again after every shape: a run that is cut short leaves the shapes that it finished.
"""

import json
import os
import shlex
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, get_args

import jax
from absl import flags

from experiments import command
from experiments.kernel_report import text
from experiments.kernel_report.curve import checkpoint_curve
from experiments.kernel_report.plot import roofline
from experiments.kernel_report.rows import submit
from experiments.kernel_report.shapes import PRESETS, MemoryShape, preset_shape, table_shapes
from pallas_kernels.chips import CHIPS, chip_of
from titans_jax.memory.rule import Anchor

#: The shape of the curve where no preset is named: that of all presets of the paper's sizes.
CURVE_PRESET = "400m"


def define_flags() -> None:
    """The program's flags."""
    flags.DEFINE_list("topology", ["v5e:2x2"], f"topologies CHIP:SHAPE, chips {', '.join(CHIPS)}")
    flags.DEFINE_enum("preset", None, PRESETS, "report the memory of one preset only")
    flags.DEFINE_enum("anchor", "chunk", get_args(Anchor), "of the last layer of that preset")
    flags.DEFINE_bool("json", False, "print a JSON list of the rows and nothing else")
    flags.DEFINE_string("output", None, "folder for report.md, report.json and roofline.png")
    flags.DEFINE_bool(
        "checkpoint_curve", False, "bytes saved against time, by checkpoint_every, of one shape"
    )
    flags.DEFINE_float("timeout", 600.0, "seconds for each compilation", lower_bound=1.0)


def main() -> None:
    """Runs the report that the flags ask for."""
    topologies = flags.FLAGS.topology
    for topology in topologies:
        chip_of(topology)
    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
        if flags.FLAGS.checkpoint_curve:
            _report_curve(pool, topologies)
        else:
            shapes = (
                [preset_shape(flags.FLAGS.preset, flags.FLAGS.anchor)]
                if flags.FLAGS.preset
                else table_shapes()
            )
            _report_rows(pool, shapes, topologies)


def _report_rows(
    pool: ThreadPoolExecutor, shapes: list[MemoryShape], topologies: list[str]
) -> None:
    pending = [submit(pool, shape, topologies, flags.FLAGS.timeout) for shape in shapes]
    rows: list[dict[str, Any]] = []
    for shape, finish in zip(shapes, pending, strict=True):
        rows += finish()
        rows.sort(key=lambda row: topologies.index(row["topology"]))
        if flags.FLAGS.output:
            _write(rows, _make(flags.FLAGS.output))
        print(f"{shape.label()}: done", file=sys.stderr)
    if flags.FLAGS.json:
        print(json.dumps(rows, indent=1))
    else:
        print(
            f"{text.LABEL}\n{text.versions()}\n{_command()}\n\n{text.table(rows)}\n\n{text.LEGEND}"
        )


def _write(rows: list[dict[str, Any]], folder: Path) -> None:
    (folder / "report.md").write_text(text.page(rows, _command()))
    (folder / "report.json").write_text(json.dumps(rows, indent=1) + "\n")
    roofline(rows, folder / "roofline.png")


def _report_curve(pool: ThreadPoolExecutor, topologies: list[str]) -> None:
    shape = preset_shape(flags.FLAGS.preset or CURVE_PRESET)
    points: list[dict[str, Any]] = []
    for topology in topologies:
        points += checkpoint_curve(pool, shape, topology, flags.FLAGS.timeout)
    if flags.FLAGS.json:
        print(json.dumps(points, indent=1))
    else:
        print(f"{text.LABEL}\n{text.versions()}\n{_command()}\n")
        for topology in topologies:
            own = [point for point in points if point["topology"] == topology]
            print(f"{topology}, {shape.label()}\n{text.curve_table(own)}\n")
    if flags.FLAGS.output:
        folder = _make(flags.FLAGS.output)
        (folder / "checkpoint_curve.json").write_text(json.dumps(points, indent=1) + "\n")


def _make(name: str) -> Path:
    folder = Path(name)
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _command() -> str:
    return shlex.join(["python", "-m", "experiments.kernel_report", *sys.argv[1:]])


if __name__ == "__main__":
    # Children compile for TPUs; this process only traces, and must not look for a device.
    jax.config.update("jax_platforms", "cpu")
    command.run(main, define_flags, cached=False)
