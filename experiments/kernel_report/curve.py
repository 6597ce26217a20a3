"""The price of recomputing: saved bytes per token and static time for several ``checkpoint_every``."""

import dataclasses
from concurrent.futures import Executor
from typing import Any

from experiments.kernel_report import programs
from experiments.kernel_report.blocks import padded_bytes
from experiments.kernel_report.children import ChildError
from experiments.kernel_report.compile import measure
from experiments.kernel_report.rows import per_tile, pick
from experiments.kernel_report.shapes import MemoryShape
from pallas_kernels.chips import chip_of

EVERY = (1, 2, 4, 8)


def checkpoint_curve(
    pool: Executor, shape: MemoryShape, topology: str, timeout: float
) -> list[dict[str, Any]]:
    """One point per value of `EVERY`: bundles per chunk, saved bytes per token, HBM time over scheduled time.

    Args:
        pool: runs the compilations.
        shape: of the memory.
        topology: e.g. "v5e:2x2".
        timeout: seconds for each compilation.
    """
    chip = chip_of(topology)
    pending = [
        pool.submit(
            measure,
            f"{programs.__name__}:forward_and_backward",
            topology,
            timeout,
            implementation="mosaic_tpu",
            checkpoint_every=every,
            **dataclasses.asdict(shape),
        )
        for every in EVERY
    ]
    carry = programs.abstract_inputs(shape, groups=1)
    saved = sum(
        padded_bytes(a.shape, programs.SAVED_DTYPE or a.dtype)
        for a in (*carry.weights, *carry.momentum)
    )
    points = []
    for every, future in zip(EVERY, pending, strict=True):
        point: dict[str, Any] = {
            "topology": topology,
            **dataclasses.asdict(shape),
            "checkpoint_every": every,
            "saved_bytes_per_token": saved / (every * shape.tile),
            "error": None,
        }
        points.append(point)
        try:
            compiled = future.result()
        except (ChildError, ValueError) as error:
            point["error"] = str(error)
            continue
        moved = 0.0
        for direction in ("forward", "backward"):
            schedule, traffic = pick(compiled, direction)
            steps = per_tile(shape, traffic)
            point[f"{direction}_bundles"] = schedule.bundles / steps
            point[f"{direction}_cycles"] = schedule.cycles / steps
            moved += (traffic.read + traffic.written) / (traffic.grid_steps * steps)
        both = point["forward_bundles"] + point["backward_bundles"]
        point["hbm_time_ratio"] = moved / chip.hbm_per_cycle / both
    return points
