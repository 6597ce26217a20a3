"""Walks the text of a compiled program (``compiled.as_text()``), loops as often as they run."""

import math
import re
from collections.abc import Iterator
from typing import NamedTuple

_COMPUTATION = re.compile(r"^(ENTRY )?%([\w.-]+) \(.*\{\s*$")
_WHILE = re.compile(r" while\(.*condition=%([\w.-]+), body=%([\w.-]+)")
_KNOWN_TRIPS = re.compile(r'"known_trip_count":\{"n":"(\d+)"')
_CALL = re.compile(r" call\(.*to_apply=%([\w.-]+)")
_CALLS = re.compile(r" (?:fusion|async-start)\(.*calls=%([\w.-]+)")
_BRANCHES = re.compile(
    r" conditional\(.*(?:branch_computations=\{([^}]*)\}|true_computation=(.*false_computation=[^,]+))"
)
_NAMES = re.compile(r"%([\w.-]+)")
_CONSTANT = re.compile(r"%([\w.-]+) = [su]32\[\][^ ]* constant\((\d+)\)")
_COMPARE = re.compile(r"ROOT %[\w.-]+ = pred\[\].* compare\(%([\w.-]+), %([\w.-]+)\), direction=LT")


_ARRAY = re.compile(r"\b(pred|bf16|[fsuc]\d+)\[([\d,]*)\](\{[^}]*\})?")


class ArrayType(NamedTuple):
    """An array in the type of an operation."""

    bare: str  # without layout and memory space
    layout: str
    bytes: int


def array_types(text: str) -> list[ArrayType]:
    """Every array type in a text, in order.

    Args:
        text: such as ``(bf16[8,128]{1,0:T(8,128)S(1)}, u32[])``.
    """
    found = []
    for kind, dims, layout in _ARRAY.findall(text):
        width = 1 if kind == "pred" else int(re.sub(r"\D", "", kind)) // 8
        size = math.prod(int(d) for d in dims.split(",") if d) * width
        found.append(ArrayType(f"{kind}[{dims}]", layout, size))
    return found


class Inner(NamedTuple):
    """Computations that a line runs: one of them, `times` times."""

    names: tuple[str, ...]
    times: int


class Operation(NamedTuple):
    """One line of a computation, and how often it runs in one call of the program."""

    line: str
    times: int
    computation: str


def operations(hlo: str) -> Iterator[Operation]:
    """Every operation that runs, in order; what fusions hold too, and all branches of a conditional.

    Args:
        hlo: text of the optimized HLO.

    Raises:
        ValueError: for text of no program, or a loop whose trip count is not a constant.
    """
    found, entry = computations(hlo)

    def walk(name: str, times: int) -> Iterator[Operation]:
        for line in found[name]:
            yield Operation(line, times, name)
            inside = inner(line, found)
            if fused := _CALLS.search(line):
                inside = Inner((fused[1],), 1)
            if inside:
                for other in inside.names:
                    yield from walk(other, times * inside.times)

    yield from walk(entry, 1)


def inner(line: str, found: dict[str, list[str]]) -> Inner | None:
    """What a loop, a call or a conditional runs; None for any other line.

    Args:
        line: of a computation.
        found: what `computations` found.

    Raises:
        ValueError: for a loop whose trip count is not a constant.
    """
    if loop := _WHILE.search(line):
        return Inner((loop[2],), _trips(line, found[loop[1]]))
    if call := _CALL.search(line):
        return Inner((call[1],), 1)
    if branches := _BRANCHES.search(line):
        return Inner(tuple(_NAMES.findall(branches[1] or branches[2])), 1)
    return None


def computations(hlo: str) -> tuple[dict[str, list[str]], str]:
    """The lines of every computation by its name, and the entry's name.

    Raises:
        ValueError: for text of no program.
    """
    found: dict[str, list[str]] = {}
    entry, current = "", None
    for line in hlo.splitlines():
        if match := _COMPUTATION.match(line):
            current = found.setdefault(match[2], [])
            entry = match[2] if match[1] else entry
        elif line.startswith("}"):
            current = None
        elif current is not None:
            current.append(line)
    if not entry:
        raise ValueError("the text has no ENTRY computation: not the optimized HLO of a program")
    return found, entry


def _trips(line: str, condition: list[str]) -> int:
    """Trips of a while loop that counts up from 0: as noted, or the constant its condition compares with."""
    if known := _KNOWN_TRIPS.search(line):
        return int(known[1])
    constants = {match[1]: int(match[2]) for match in map(_CONSTANT.search, condition) if match}
    for row in condition:
        if (compare := _COMPARE.search(row)) and compare[2] in constants:
            return constants[compare[2]]
    raise ValueError(f"no constant trip count for the loop {line.strip()[:120]!r}")
