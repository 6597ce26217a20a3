"""Rows of the report: one memory shape on one chip, forward or backward. All figures are static estimates.

Per tile of one head, which is a chunk or a part of it (a grid step's figures over its tiles and groups):

    bundles            VLIW bundles of the kernel's final schedule, one pass of its grid loop (schedule.py)
    cycles             the same with the cycles in which the schedule only waits for results
    bound_cycles       the matmuls of the memory's algebra at the matrix units' speed (matmuls.py, chips.py)
    utilisation        bound_cycles / bundles; utilisation_with_waits: bound_cycles / cycles
    matrix_cycles      cycles of the matrix units, by the compiler's count of the kernel's slots
    matrix_slots_used  the compiler's share of used matrix-unit slots in the final schedule
    slots_used         of every unit, of the schedule with its waiting cycles
    spill_stores, spill_loads   of vector registers
    xla_cycles         the compiler's estimate for the same step under `lax.scan` (hlo_cycles.py), backward being
                       forward+backward less forward
    xla_cycles_ratio   xla_cycles / bundles; xla_cycles_ratio_both: forward+backward over forward+backward

Per token of one head: hbm_bytes_per_token, by the block specs (blocks.py), saved carries included; and
compulsory_bytes_per_token, every argument and result once without padding. hbm_time_ratio is the time of the former at
the chip's bandwidth over that of the bundles. vmem_bytes is the kernel's. error_ratio: accuracy.py.

Bounds and bundles are one core's; the cores of a chip share its bandwidth. Where a device has two cores (v5p), XLA's
estimate for the device counts twice, because the kernel's groups are split between the cores.
"""

import dataclasses
from collections.abc import Callable
from concurrent.futures import Executor, Future
from typing import Any

import jax

from experiments.kernel_report import programs
from experiments.kernel_report.accuracy import Errors, errors
from experiments.kernel_report.blocks import Traffic
from experiments.kernel_report.children import ChildError
from experiments.kernel_report.compile import Compiled, measure
from experiments.kernel_report.matmuls import BACKWARD_OVER_FORWARD, bound_cycles, matmuls
from experiments.kernel_report.schedule import Schedule
from experiments.kernel_report.shapes import GROUPS, MemoryShape
from pallas_kernels.chips import Chip, chip_of

DIRECTIONS = ("forward", "backward")
Row = dict[str, Any]

_PER_STEP = ("bundles", "cycles", "matrix_cycles", "spill_stores", "spill_loads")
#: Figures that a row has whether or not its kernel compiled; None where there is none.
KEYS = (
    *("topology", "d_head", "depth", "expansion", "chunk", "anchor", "tile", "direction"),
    *(
        "bundles",
        "bound_cycles",
        "utilisation",
        "hbm_time_ratio",
        "xla_cycles_ratio",
        "error_ratio",
    ),
    *(
        "cycles",
        "utilisation_with_waits",
        "matrix_cycles",
        "matrix_slots_used",
        "slots_used",
    ),
    *("spill_stores", "spill_loads", "vmem_bytes", "tiles_per_grid_step"),
    *("hbm_bytes_per_token", "compulsory_bytes_per_token"),
    *("xla_cycles", "xla_cycles_ratio_both", "flops", "kernel_error", "xla_error", "errors"),
)


def submit(
    pool: Executor, shape: MemoryShape, topologies: list[str], timeout: float
) -> Callable[[], list[Row]]:
    """Starts everything that the rows of a shape need, and returns what waits for it.

    Args:
        pool: runs the children.
        shape: of the memory.
        topologies: e.g. ["v5e:2x2"].
        timeout: seconds for each child.
    """
    fields = dataclasses.asdict(shape)

    def compiling(topology: str, program: str, implementation: str) -> Future[Compiled]:
        return pool.submit(
            measure,
            f"{programs.__name__}:{program}",
            topology,
            timeout,
            implementation=implementation,
            **fields,
        )

    pending = {
        topology: (
            compiling(topology, "forward_and_backward", "mosaic_tpu"),
            compiling(topology, "forward", "xla"),
            compiling(topology, "forward_and_backward", "xla"),
        )
        for topology in topologies
    }
    accuracy = pool.submit(errors, shape, timeout)
    return lambda: [
        row
        for topology, (kernel, *xla) in pending.items()
        for row in _rows(shape, topology, kernel, xla, accuracy)
    ]


def _rows(
    shape: MemoryShape,
    topology: str,
    kernel: Future[Compiled],
    xla: list[Future[Compiled]],
    accuracy: Future[dict[str, Errors]],
) -> list[Row]:
    chip = chip_of(topology)
    messages: list[str] = []

    def result(name: str, future: Future[Any]) -> Any:
        """A future's value; what went wrong is kept for the row."""
        try:
            return future.result()
        except (ChildError, ValueError) as error:
            messages.append(f"{name}: {error}")
            return None

    compiled = result("kernel", kernel)
    by_xla = [result("XLA", future) for future in xla]
    found = result("accuracy", accuracy)
    tiles = GROUPS * shape.tiles
    # XLA's estimate is a device's time for all tiles, bundles are one core's for each of its own.
    core_time = chip.device_cores / tiles
    xla_cycles: list[float] = []
    if None not in by_xla:
        forward, both = (program.xla_cycles * core_time for program in by_xla)
        xla_cycles = [forward, both - forward]
    rows = []
    for i, direction in enumerate(DIRECTIONS):
        row: Row = dict.fromkeys(KEYS)
        row |= {"topology": topology, **dataclasses.asdict(shape), "tile": shape.tile}
        row["direction"] = direction
        row |= bound(shape, chip, direction)
        row["compulsory_bytes_per_token"] = compulsory_bytes(shape, direction) / (
            tiles * shape.tile
        )
        if xla_cycles:
            row["xla_cycles"] = xla_cycles[i]
        if compiled:
            schedule, traffic = pick(compiled, direction)
            row |= _counted(shape, chip, compiled, schedule, traffic)
            row["utilisation"] = row["bound_cycles"] / row["bundles"]
            row["utilisation_with_waits"] = row["bound_cycles"] / row["cycles"]
            if xla_cycles:
                row["xla_cycles_ratio"] = xla_cycles[i] / row["bundles"]
        if found:
            row |= {
                "error_ratio": found[direction].ratio,
                "kernel_error": found[direction].kernel,
                "xla_error": found[direction].default,
            }
        rows.append(row)
    for row in rows:
        if compiled and xla_cycles:
            row["xla_cycles_ratio_both"] = sum(xla_cycles) / sum(row["bundles"] for row in rows)
        row["errors"] = messages
    return rows


def pick(compiled: Compiled, direction: str) -> tuple[Schedule, Traffic]:
    """A direction's kernel: `fused_scan` names them, and the compiler appends a number."""
    name = f"fused_scan_{direction}"
    schedules = [
        k for k in compiled.kernels if k.kernel.rpartition(".")[0] == name or k.kernel == name
    ]
    traffics = [t for t in compiled.traffic if t.name == name]
    if len(schedules) != 1 or len(traffics) != 1:
        names = [k.kernel for k in compiled.kernels]
        raise ValueError(f"expected one kernel {name!r} in the program, found {names}")
    return schedules[0], traffics[0]


def per_tile(shape: MemoryShape, traffic: Traffic) -> float:
    """Tiles of single heads that one grid step of a kernel computes: divide its figures by them."""
    return GROUPS * shape.tiles / traffic.grid_steps


def bound(shape: MemoryShape, chip: Chip, direction: str) -> Row:
    """Cycles and flops of a direction's matmuls (matmuls.py)."""
    scan = programs.plain_scan(shape)
    consts, carry, xs = jax.eval_shape(scan.arguments, programs.abstract_inputs(shape))
    products = matmuls(scan.step, consts, _without_axes(carry, 1), _without_axes(xs, 2))
    factor = 1 if direction == "forward" else BACKWARD_OVER_FORWARD
    return {
        "bound_cycles": factor * bound_cycles(products, chip),
        "flops": factor * sum(p.flops for p in products),
    }


def _without_axes(tree: Any, axes: int) -> Any:
    return jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape[axes:], a.dtype), tree)


def _counted(
    shape: MemoryShape, chip: Chip, compiled: Compiled, schedule: Schedule, traffic: Traffic
) -> Row:
    per_step = per_tile(shape, traffic)
    row: Row = {name: getattr(schedule, name) / per_step for name in _PER_STEP}
    hbm_bytes = (traffic.read + traffic.written) / (GROUPS * shape.tiles)
    return row | {
        "matrix_slots_used": schedule.matrix_slots_used,
        "slots_used": schedule.slots_used,
        "vmem_bytes": compiled.vmem[schedule.kernel],
        "tiles_per_grid_step": per_step,
        "hbm_bytes_per_token": hbm_bytes / shape.tile,
        "hbm_time_ratio": hbm_bytes / chip.hbm_per_cycle / row["bundles"],
    }


def compulsory_bytes(shape: MemoryShape, direction: str) -> int:
    """Bytes of every argument and result of the memory once, without padding and saved carries, for all groups.

    Forward: tokens, gates and the first carry in, reads and the last carry out. Backward: those arguments and the
    results' cotangents in, the arguments' cotangents out.
    """
    inputs = programs.abstract_inputs(shape)
    arguments = sum(a.size * a.dtype.itemsize for a in jax.tree.leaves(inputs))
    results = sum(
        a.size * a.dtype.itemsize
        for a in jax.tree.leaves((inputs.q, inputs.weights, inputs.momentum))
    )
    return arguments + results if direction == "forward" else 2 * arguments + results
