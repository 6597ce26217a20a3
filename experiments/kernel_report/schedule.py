"""Counts a kernel's VLIW bundles in the compiler's dumps.

libtpu compiles every custom call of a program (and every fusion) by itself and can leave, per kernel,

    *-packed-bundles-post-ra.txt                            the schedule with all waiting cycles written out
    *-pre-delay_hlo-static-per-bundle-utilization.txt       units in use, one line per bundle of that schedule
    *-final_bundles.txt                                     what is emitted: the hardware does the waiting
    *-final_hlo-static-per-bundle-utilization.txt           units in use, one line per bundle of that

The last pass of the scheduler removes bundles in which nothing happens but waiting for a result (a matrix
product is popped more than a hundred cycles after it was pushed), because the hardware interlocks. So the final
schedule counts *instructions to issue*, and the one before counts *cycles*: a chain of dependent 128-wide products on
v5e is 36 bundles long per product, but 139 cycles. In a kernel with enough independent work both are nearly equal.
The report's ``bundles`` are those of the final schedule; ``cycles`` stand beside them.

One pass of the grid loop, the rule: a kernel's grid is one loop (Mosaic flattens it and adds two iterations that
fill and drain the pipeline of copies). Counted is every bundle from the loop's label to its closing branch and
the branch's shadow, times the trip counts of inner loops around it (the constant in a loop's exit test). Bundles
before and after the loop are not counted: they run once per call. Regions that only some steps execute
(``pl.when``: loading the carry on the first step, say) are counted as if every step did. Give a program at least
two grid steps: a grid of one step is no loop, and all its bundles are counted.
"""

import dataclasses
import itertools
import re
from pathlib import Path

DUMP_LABELS = ".*(packed-bundles-post-ra|pre-delay|final_).*"
MATRIX, STORE_SPILL, LOAD_FILL = "MXU", "VSTORE:SPILL", "VLOAD:FILL"

_BUNDLE = re.compile(r"^ *(?:0x)?[0-9a-f]+ +(?:([A-Z]{2}):|:) *([> ]*)\{(\}?)")
_BRANCH = re.compile(r"= sbr\.rel \(!?%(\w+)\) target")
_EXIT_TEST = re.compile(r"%(\w+) = scmp\.ge\.s32\.totalorder %\w+, (\d+) /\* loop exit test \*/")
_NAME = re.compile(r"^\d+-(.+?)-\d+-(.+)\.txt$")


@dataclasses.dataclass(frozen=True)
class Schedule:
    """One kernel's schedule, for one pass of its grid loop (module docstring): static estimates.

    Attributes:
        kernel: the custom call's name.
        bundles: of the final schedule.
        cycles: the same with waiting cycles.
        matrix_cycles: cycles in which the matrix units would be done if all were always busy, by the
            compiler's count of their slots.
        matrix_slots_used: share of the final schedule's matrix-unit slots in use.
        slots_used: the same per unit, by the compiler's names, of the schedule with waiting cycles.
        spill_stores: vector registers spilled.
        spill_loads: and loaded again.
    """

    kernel: str
    bundles: int
    cycles: int
    matrix_cycles: float
    matrix_slots_used: float
    slots_used: dict[str, float]
    spill_stores: int
    spill_loads: int


@dataclasses.dataclass(frozen=True)
class _Bundle:
    depth: int
    label: str
    text: str


@dataclasses.dataclass(frozen=True)
class _Slots:
    capacity: dict[str, int]
    used: list[dict[str, int]]


def read_schedules(folder: Path, kernels: tuple[str, ...]) -> list[Schedule]:
    """The schedules of the named custom calls in a dump folder.

    Args:
        folder: what ``--xla_jf_dump_to`` named, with `DUMP_LABELS` dumped.
        kernels: names of custom calls in the compiled program.

    Raises:
        ValueError: if a kernel left no schedule, or one that this module cannot read.
    """
    files: dict[str, dict[str, Path]] = {}
    for path in sorted(folder.glob("*.txt")):
        if match := _NAME.match(path.name):
            files.setdefault(match[1], {})[match[2]] = path
    schedules = []
    for kernel in kernels:
        if kernel not in files:
            raise ValueError(f"kernel {kernel!r} left no schedule; there are {sorted(files)}")
        texts = {name: path.read_text() for name, path in files[kernel].items()}
        schedules.append(
            count(
                kernel,
                texts["final_bundles"],
                texts["final_hlo-static-per-bundle-utilization"],
                texts["packed-bundles-post-ra"],
                texts["pre-delay_hlo-static-per-bundle-utilization"],
            )
        )
    return schedules


def count(kernel: str, final: str, final_slots: str, waiting: str, waiting_slots: str) -> Schedule:
    """Counts one pass of the grid loop from the texts of the four files (module docstring).

    Raises:
        ValueError: if a file's bundles and its slots do not match, or an inner loop's trip count is unknown.
    """
    final_bundles, final_used = _parse(kernel, final, final_slots)
    final_weights = _weights(kernel, final_bundles)
    waiting_bundles, used = _parse(kernel, waiting, waiting_slots)
    weights = _weights(kernel, waiting_bundles)

    def total(slots: _Slots, weights: list[int], unit: str) -> int:
        return sum(w * row[unit] for w, row in zip(weights, slots.used, strict=True))

    bundles, cycles = sum(final_weights), sum(weights)
    return Schedule(
        kernel=kernel,
        bundles=bundles,
        cycles=cycles,
        matrix_cycles=total(used, weights, MATRIX) / used.capacity[MATRIX],
        matrix_slots_used=total(final_used, final_weights, MATRIX)
        / (bundles * final_used.capacity[MATRIX]),
        slots_used={
            unit: total(used, weights, unit) / (cycles * capacity)
            for unit, capacity in used.capacity.items()
        },
        spill_stores=total(used, weights, STORE_SPILL),
        spill_loads=total(used, weights, LOAD_FILL),
    )


def _parse(kernel: str, bundles_text: str, slots_text: str) -> tuple[list[_Bundle], _Slots]:
    bundles, slots = _bundles(bundles_text), _slots(slots_text)
    if len(bundles) != len(slots.used) or not bundles:
        raise ValueError(
            f"kernel {kernel!r}: {len(bundles)} bundles but {len(slots.used)} lines of slots; this libtpu's"
            " dumps are not as experiments/kernel_report/schedule.py reads them"
        )
    return bundles, slots


def _bundles(text: str) -> list[_Bundle]:
    """Bundles in order. A bundle's text may continue on lines of its own (operands of copies).

    Empty bundles carry no mark of their loop: they are where the bundle before them is.
    """
    starts: list[tuple[int, str]] = []
    lines: list[list[str]] = []
    for line in text.splitlines():
        if match := _BUNDLE.match(line):
            empty = match[3] == "}"
            depth = starts[-1][0] if empty and starts else match[2].count(">")
            starts.append((depth, match[1] or ""))
            lines.append([line])
        elif lines:
            lines[-1].append(line)
    return [
        _Bundle(depth, label, "\n".join(parts))
        for (depth, label), parts in zip(starts, lines, strict=True)
    ]


def _slots(text: str) -> _Slots:
    lines = text.splitlines()
    units = [unit.strip() for unit in lines[1].split(",")]
    rows = [[int(number) for number in line.split()] for line in lines[4:] if line.strip()]
    # The file repeats no unit; loads and stores of spills are counted apart from the others.
    capacity = dict(zip(units, map(int, lines[2].split()), strict=True))
    return _Slots(capacity, [dict(zip(units, row, strict=True)) for row in rows])


def _weights(kernel: str, bundles: list[_Bundle]) -> list[int]:
    """How often each bundle counts: 0 outside the grid loop, 1 in it, a product of trips in inner loops."""
    loops = _loops(kernel, bundles)
    if not loops:
        return [1] * len(bundles)
    weights = [0] * len(bundles)
    for loop in loops:
        for i in range(loop.start, loop.end):
            weights[i] = 1 if loop.outermost else weights[i] * loop.trips
    return weights


@dataclasses.dataclass(frozen=True)
class _Loop:
    start: int
    branch: int
    end: int
    trips: int
    outermost: bool


def _loops(kernel: str, bundles: list[_Bundle]) -> list[_Loop]:
    """Every loop, outer ones before those within: from its label to its closing branch and that one's shadow.

    The shadow is what a branch still lets run: as many bundles as stay marked behind the grid loop's, 4 on v5e,
    6 on TPU7x. The marks alone do not give the range of an inner loop: the compiler moves instructions of the outer
    loop into it, under the condition that it ends, and marks their bundles as the outer loop's.
    """
    tests = {m[1]: int(m[2]) for bundle in bundles for m in _EXIT_TEST.finditer(bundle.text)}
    starts: list[int] = []
    closed: list[tuple[int, int, int]] = []  # start, closing branch, trips
    loops = []
    for i, bundle in enumerate(bundles):
        if bundle.label == "LB":
            starts.append(i)
        branch = _BRANCH.search(bundle.text)
        if branch is None or branch[1] not in tests:
            continue
        if not starts:
            raise ValueError(
                f"kernel {kernel!r}: the loop that ends at bundle {i} has no beginning"
            )
        closed.append((starts.pop(), i, tests[branch[1]]))
        if not starts:
            marked = itertools.takewhile(lambda other: other.depth, bundles[i + 1 :])
            shadow = sum(1 for _ in marked)
            loops += [
                _Loop(start, at, at + 1 + shadow, trips, outermost=at == i)
                for start, at, trips in closed
            ]
            closed = []
    if starts:
        raise ValueError(
            f"kernel {kernel!r} has a loop whose trip count is not a constant of the schedule: give it constant"
            " bounds from 0, or unroll it"
        )
    return sorted(loops, key=lambda loop: loop.start)
