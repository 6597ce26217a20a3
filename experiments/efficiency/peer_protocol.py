"""The protocol between the comparison and its worker processes, and how a process sees its memory.

A worker reads one JSON request per line and answers each with one line that starts with `MARK`;
anything else a library prints is passed over. Requests:

    {"op": "time", "pass": "fwd", "seconds": 0.5}   run about that long after one call that is not
                                                    timed; answer: seconds per call
    {"op": "memory", "pass": "fwdbwd", "calls": 3}  answer: peak growth of memory, bytes: resident on a
                                                    CPU, allocated on a GPU
    {"op": "matmul"}                                answer: rate of a large float32 matmul, FLOP/s
    {"op": "device"}                                answer: name of the GPU, "" on a CPU

Standard library only: both sides' workers import it.
"""

import json
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path

MARK = "@reply "
#: Sides of the large matmul: a GPU needs a larger one to show its rate.
CPU_MATMUL, GPU_MATMUL = 2048, 8192


def memory_status(field: str) -> int:
    """A size in bytes from this process's status: `VmRSS` (now) or `VmHWM` (the most so far).

    `getrusage`'s maximum is no use here: a new process inherits its parent's.

    Raises:
      RuntimeError: where the kernel has no /proc.
    """
    status = Path("/proc/self/status")
    if not status.exists():
        raise RuntimeError("peak memory is read from /proc/self/status, which only Linux has")
    for line in status.read_text().splitlines():
        if line.startswith(field + ":"):
            return int(line.split()[1]) * 1024
    raise RuntimeError(f"/proc/self/status has no field {field!r}")


def time_calls(call: Callable[[], None], seconds: float) -> list[float]:
    """Seconds of each of as many calls as fit in `seconds`, at least one, after one that is not timed.

    The first call after the process slept pays for waking its threads and finding its pages again.
    """
    call()
    durations: list[float] = []
    while not durations or sum(durations) < seconds:
        start = time.perf_counter()
        call()
        durations.append(time.perf_counter() - start)
    return durations


def memory_growth(call: Callable[[], None], calls: int) -> int:
    """Peak resident memory over `calls` calls minus resident memory before the first, in bytes."""
    before = memory_status("VmRSS")
    for _ in range(calls):
        call()
    return max(memory_status("VmHWM") - before, 0)


def matmul_rate(product: Callable[[], None], size: int) -> float:
    """FLOP/s of the best of six calls that multiply two matrices of `size` x `size`."""
    best = float("inf")
    for _ in range(6):
        start = time.perf_counter()
        product()
        best = min(best, time.perf_counter() - start)
    return 2 * size**3 / best


def serve(
    passes: Mapping[str, Callable[[], None]],
    matmul: Callable[[], float],
    device: str = "",
    growth: Callable[[Callable[[], None], int], int] = memory_growth,
) -> None:
    """Answers requests from standard input until it ends.

    Args:
      passes: what to run for "fwd" and for "fwdbwd"; each call returns when its work is done.
      matmul: measures the rate of a large matmul.
      device: name of the GPU, "" on a CPU.
      growth: of memory over some calls, as `memory_growth`.
    """
    for line in sys.stdin:
        request = json.loads(line)
        if request["op"] == "time":
            answer: object = time_calls(passes[request["pass"]], request["seconds"])
        elif request["op"] == "memory":
            answer = growth(passes[request["pass"]], request["calls"])
        elif request["op"] == "matmul":
            answer = matmul()
        elif request["op"] == "device":
            answer = device
        else:
            raise ValueError(f"op is {request['op']!r}; it must be time, memory, matmul or device")
        print(MARK + json.dumps(answer), flush=True)
