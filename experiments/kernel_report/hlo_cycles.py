"""The compiler's own estimate of a program's cycles, from the text of the optimized HLO.

libtpu notes ``estimated_cycles`` with every fusion, copy and convolution that it schedules. The estimate of a
computation is the sum of its operations', a loop's is its body's times its trip count, and the dearer branch counts
of a conditional. Custom calls (Pallas kernels) have none: their schedules are read by schedule.py.
"""

import re

from experiments.hlo import computations, inner

_CYCLES = re.compile(r'"estimated_cycles":"(\d+)"')


def estimated_cycles(hlo: str) -> int:
    """Estimated cycles of one call of a compiled program (``compiled.as_text()``), kernels left out.

    Raises:
        ValueError: for a loop whose trip count is not a constant.
    """
    found, entry = computations(hlo)

    def cycles(name: str) -> int:
        total = 0
        for line in found[name]:
            if inside := inner(line, found):
                total += inside.times * max(map(cycles, inside.names))
            elif own := _CYCLES.search(line):
                total += int(own[1])
        return total

    return cycles(entry)
