"""The compiler's own estimate of a program's cycles, from the text of the optimized HLO.

libtpu notes ``estimated_cycles`` with every fusion, copy and convolution that it schedules. The estimate of a
computation is the sum of its operations', a loop's is its body's times its trip count, and the dearer branch counts
of a conditional. Custom calls (Pallas kernels) have none: their schedules are read by schedule.py.
"""

import re

_COMPUTATION = re.compile(r"^(ENTRY )?%([\w.-]+) \(.*\{\s*$")
_CYCLES = re.compile(r'"estimated_cycles":"(\d+)"')
_WHILE = re.compile(r" while\(.*condition=%([\w.-]+), body=%([\w.-]+)")
_KNOWN_TRIPS = re.compile(r'"known_trip_count":\{"n":"(\d+)"')
_CALL = re.compile(r" call\(.*to_apply=%([\w.-]+)")
_BRANCHES = re.compile(
    r" conditional\(.*(?:branch_computations=\{([^}]*)\}|true_computation=(.*false_computation=[^,]+))"
)
_NAMES = re.compile(r"%([\w.-]+)")
_CONSTANT = re.compile(r"%([\w.-]+) = s32\[\][^ ]* constant\((\d+)\)")
_COMPARE = re.compile(r"ROOT %[\w.-]+ = pred\[\].* compare\(%([\w.-]+), %([\w.-]+)\), direction=LT")


def estimated_cycles(hlo: str) -> int:
    """Estimated cycles of one call of a compiled program (``compiled.as_text()``), kernels left out.

    Raises:
        ValueError: for a loop whose trip count is not a constant.
    """
    computations, entry = _computations(hlo)

    def cycles(name: str) -> int:
        total = 0
        for line in computations[name]:
            if loop := _WHILE.search(line):
                total += _trips(line, computations[loop[1]]) * cycles(loop[2])
            elif call := _CALL.search(line):
                total += cycles(call[1])
            elif branches := _BRANCHES.search(line):
                names = _NAMES.findall(branches[1] or branches[2])
                total += max(map(cycles, names))
            elif own := _CYCLES.search(line):
                total += int(own[1])
        return total

    return cycles(entry)


def _computations(hlo: str) -> tuple[dict[str, list[str]], str]:
    """The lines of every computation by its name, and the entry's name."""
    computations: dict[str, list[str]] = {}
    entry, current = "", None
    for line in hlo.splitlines():
        if match := _COMPUTATION.match(line):
            current = computations.setdefault(match[2], [])
            entry = match[2] if match[1] else entry
        elif line.startswith("}"):
            current = None
        elif current is not None:
            current.append(line)
    if not entry:
        raise ValueError("the text has no ENTRY computation: not the optimized HLO of a program")
    return computations, entry


def _trips(line: str, condition: list[str]) -> int:
    """Trips of a while loop that counts up from 0: as noted, or the constant its condition compares with."""
    if known := _KNOWN_TRIPS.search(line):
        return int(known[1])
    constants = {match[1]: int(match[2]) for match in map(_CONSTANT.search, condition) if match}
    for row in condition:
        if (compare := _COMPARE.search(row)) and compare[2] in constants:
            return constants[compare[2]]
    raise ValueError(f"no constant trip count for the loop {line.strip()[:120]!r}")
