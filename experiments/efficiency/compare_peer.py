"""Times our NeuralMemory against titans-pytorch's, on this machine, row by row.

    make parity     # once: makes an environment with torch in .venv-parity
    python -m experiments.efficiency.compare_peer --peer_python=.venv-parity/bin/python

What is compared: forward, and forward + backward (gradient of the mean square of the output to
every parameter and to the input), float32, at equal batch, length, width, heads, chunk, depth and
expansion. Theirs is titans-pytorch's with `model=MemoryMLP(dim_head, depth, expansion)`,
`mem_model_norm_add_residual=False`, `qk_rmsnorm=True`, everything else at its default. It runs in
two ways:

* same rule: `batch_size=chunk`; the gradient anchor moves at every chunk, as in ours;
* default: `batch_size=None`; every gradient is taken at the initial weights, in one parallel pass.
  Ours keeps its rule, which does more.

Both contain an RMSNorm of the input, q, k, v projections, q and k normalised per head, three
learned gates, the memory, and (with several heads) an output projection. Theirs alone has a second
RMSNorm (one for the write, one for the read) and a scalar output gate per head; its forward is
timed under `no_grad`. Ours alone has SiLU after q, k and v and a norm of the output; its momentum
and forgetting step at every token, and every token reads the memory it has just written, where
theirs steps once per chunk and reads the memory of the chunk's start. Its memory's activation is
SiLU, theirs GELU.

On a GPU, where both sides find it by themselves (`--markdown=experiments/results/compare_peer_gpu.md`), float32 matmuls
of both are TF32, which is JAX's default there and what torch calls "high", and memory is what the allocator gave.
On a CPU both use all cores: torch by its threads, JAX by one CPU device per core, over which the sequences (or
the heads, where there is one sequence) are sharded.

How it is measured: each side of each row is a process of its own that stays alive while the others
run, and they take turns, so that a slow minute of the machine falls on all of them; the first call
of a turn, which wakes the process up, is not timed. It needs a quiet machine even so: torch's
threads wait for each other, and one more busy process slows them tenfold, which would flatter ours;
the load at the start is in the report. Compilation and a warm-up call come before. A speed is
tokens per call over the seconds of the median call. Both sides inherit the environment: a setting of the C
library's allocator (README, huge pages) holds for both, and stands before the command in the report.
Peak memory is measured in further processes that do nothing else: the most resident memory over
three forward + backward calls minus that before the first. Compiling is left out of it (the
process finds the executable in a cache that the one before filled); the growth with compilation
is reported beside it. "Of matmul" is counted FLOPs (`cases.forward_flops`) per second over the
rate of a 2048 x 2048 x 2048 float32 matmul measured in the same process.
"""

import dataclasses
import datetime
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax

from experiments import command
from experiments.comparison.page import page
from experiments.comparison.store import processor
from experiments.efficiency import peer_cases as cases
from experiments.efficiency import peer_page
from experiments.efficiency.peer_processes import Worker, peer_interpreter, running
from titans_jax.fields import (
    check_fields,
    field,
    flag,
    positive,
    positive_int,
    require,
    several,
    string,
    whole,
)

SIDES = ("ours", *cases.RULES)
TURN_SECONDS = 0.5
MEMORY_CALLS = 3
PAGE_BYTES = 4096


@dataclasses.dataclass(frozen=True)
class Effort:
    """How long to measure: about `seconds` for all rounds of one pass, within the two bounds."""

    seconds: float = 30.0
    min_rounds: int = 3
    max_rounds: int = 15


_LAST = len(cases.CASES) - 1
_ROW = whole(f"the index of a row, from 0 to {_LAST}", 0, _LAST)


@dataclasses.dataclass(frozen=True)
class PeerConfig:
    """What is measured.

    Attributes:
      peer_python: interpreter with torch and titans-pytorch; by default this one.
      rows: indices of cases, with commas between, e.g. 0,1.
      json: write everything measured to this file.
      markdown: write the tables to this file.
      seconds: about how long a row's pass is timed.
      min_rounds: at least these.
      max_rounds: at most these.
      scaling: also time ours from 1K to 64K tokens.
    """

    peer_python: str = field("", string)
    rows: tuple[int, ...] = field(tuple(range(len(cases.CASES))), several(_ROW))
    json: str = field("", string)
    markdown: str = field("", string)
    seconds: float = field(Effort.seconds, positive)
    min_rounds: int = field(Effort.min_rounds, positive_int)
    max_rounds: int = field(Effort.max_rounds, positive_int)
    scaling: bool = field(True, flag)

    def __post_init__(self) -> None:
        check_fields(self)
        bounded = self.min_rounds <= self.max_rounds
        wanted = f"at most max_rounds = {self.max_rounds}"
        require(bounded, "min_rounds", self.min_rounds, wanted)


def start(
    side: str, case: cases.Case, peer_python: str, environment: dict[str, str] | None = None
) -> Worker:
    """Starts one side of a row: "ours", or theirs by rule, "same" or "default"."""
    sizes = json.dumps(dataclasses.asdict(case))
    if side == "ours":
        return Worker(sys.executable, "our_worker", sizes, environment=environment)
    return Worker(peer_python, "peer_worker", sizes, side)


def take_turns(workers: dict[str, Worker], which: str, effort: Effort) -> dict[str, list[float]]:
    """Times every worker in turn, round after round, until the time is spent.

    Args:
      workers: side -> process.
      which: "fwd" or "fwdbwd".
      effort: how many rounds.

    Returns:
      side -> seconds of every call.
    """
    request = {"pass": which}
    for one in workers.values():
        one.ask("time", seconds=0.0, **request)  # compiles, then fills caches and thread pools
    durations: dict[str, list[float]] = {side: [] for side in workers}
    begin = time.perf_counter()
    for done in range(effort.max_rounds):
        spent = time.perf_counter() - begin
        if done >= effort.min_rounds and spent * (done + 1) / done > effort.seconds:
            break
        for side, one in workers.items():
            durations[side] += one.ask("time", seconds=TURN_SECONDS, **request)
    return durations


def speed_statistics(durations: Sequence[float], tokens: int) -> dict[str, float]:
    """Tokens/s from the seconds of several calls: median, best, and the quartiles as the spread."""
    ordered = sorted(durations)
    if len(ordered) > 1:
        first, _, last = statistics.quantiles(ordered, n=4, method="inclusive")
    else:
        first = last = ordered[0]
    return {
        "median": tokens / statistics.median(ordered),
        "best": tokens / ordered[0],
        "low": tokens / last,
        "high": tokens / first,
        "calls": len(ordered),
    }


def row_ratios(row: dict[str, Any]) -> dict[str, Any]:
    """The ratios of a measured row, ours over theirs: of median speeds, and of peak growths.

    Returns:
      {"ratios": {rule: {pass: ratio}}, "memory_ratio": ours over same rule}.
    """
    speed = row["speed"]
    ratios = {
        rule: {
            which: speed["ours"][which]["median"] / speed[rule][which]["median"]
            for which in cases.PASSES
        }
        for rule in cases.RULES
    }
    return {"ratios": ratios, "memory_ratio": row["memory"]["ours"] / row["memory"]["same"]}


def measure_row(case: cases.Case, peer_python: str, effort: Effort) -> dict[str, Any]:
    """Measures one row completely (see the module docstring)."""
    row: dict[str, Any] = {"case": dataclasses.asdict(case), "speed": {side: {} for side in SIDES}}
    rates = []
    with running({side: start(side, case, peer_python) for side in SIDES}) as workers:
        row["devices"] = {side: one.ask("device") for side, one in workers.items()}
        for which in cases.PASSES:
            rates.append(workers["ours"].ask("matmul"))
            durations = take_turns(workers, which, effort)
            for side in SIDES:
                row["speed"][side][which] = speed_statistics(durations[side], case.tokens)
    counted = {"fwd": cases.forward_flops(case), "fwdbwd": cases.training_flops(case)}
    row["matmul_flops_per_second"] = max(rates)
    row["matmul_fraction"] = {
        which: flops / case.tokens * row["speed"]["ours"][which]["median"] / max(rates)
        for which, flops in counted.items()
    }
    row["memory"] = measure_memory(case, peer_python)
    return row | row_ratios(row)


def measure_memory(case: cases.Case, peer_python: str) -> dict[str, int]:
    """Peak growth of resident memory in bytes, every side in a process of its own.

    Returns:
      "ours", "same", "default", and "ours_compiling", where compilation is inside the measure.
    """
    growth = {}
    with tempfile.TemporaryDirectory() as cache:
        environment = {
            "JAX_COMPILATION_CACHE_DIR": cache,
            "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
            "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
        }
        for name in ("ours_compiling", *SIDES):
            side = "ours" if name == "ours_compiling" else name
            with running({side: start(side, case, peer_python, environment)}) as workers:
                bytes_more = workers[side].ask("memory", calls=MEMORY_CALLS, **{"pass": "fwdbwd"})
                growth[name] = max(bytes_more, PAGE_BYTES)  # no ratio divides by nothing
    return growth


def measure_scaling(effort: Effort) -> list[dict[str, Any]]:
    """Our microseconds per token from 1K to 64K tokens, a process for each length."""
    rows = []
    for length in cases.SCALING_LENGTHS:
        case = dataclasses.replace(cases.SCALING_CASE, length=length)
        row: dict[str, Any] = {"length": length}
        with running({"ours": start("ours", case, sys.executable)}) as workers:
            for which in cases.PASSES:
                durations = take_turns(workers, which, effort)["ours"]
                row[which] = statistics.median(durations) / case.tokens * 1e6
        rows.append(row)
        print(peer_page.describe_scaling(row), flush=True)
    return rows


def machine(peer_python: str) -> dict[str, Any]:
    """What the numbers depend on: processor, cores, what else was running, versions."""
    names = "'torch', 'titans-pytorch'"
    versions = subprocess.run(
        [
            peer_python,
            "-c",
            "from importlib.metadata import version;"
            f"print(', '.join(n + ' ' + version(n) for n in ({names})))",
        ],
        capture_output=True,
        text=True,
        check=True,
    )
    return {
        "processor": processor(),
        "cores": os.cpu_count(),
        "load": os.getloadavg()[0],
        "python": platform.python_version(),
        "jax": jax.__version__,
        "peer": versions.stdout.strip(),
        "date": datetime.date.today().isoformat(),
    }


def measure_all(config: PeerConfig) -> dict[str, Any]:
    """Measures the chosen rows.

    Args:
      config: what, and how long.

    Returns:
      What the page is made of.
    """
    effort = Effort(config.seconds, config.min_rounds, config.max_rounds)
    peer_python = peer_interpreter(config.peer_python or None)
    result: dict[str, Any] = {
        "command": command.command_line(),
        "machine": machine(peer_python),
        "rows": [],
    }
    for index in config.rows:
        row = measure_row(cases.CASES[index], peer_python, effort)
        result["rows"].append(row)
        print(peer_page.describe_row(row), flush=True)
    result["scaling"] = measure_scaling(Effort(10.0, 2, 5)) if config.scaling else []
    used = {name for row in result["rows"] for name in row["devices"].values() if name}
    result["machine"]["accelerator"] = ", ".join(sorted(used))
    result["summary"] = cases.summary_line(result["rows"])
    return result


def main() -> None:
    """Measures, writes what is asked for, and prints the line of means last."""
    config = command.read_fields(PeerConfig)
    result = measure_all(config)
    for path, text in (
        (config.json, json.dumps(result, indent=2) + "\n"),
        (config.markdown, page(result, "compare_peer", peer_page.REPORT)),
    ):
        if path:
            Path(path).parent.mkdir(parents=True, exist_ok=True)
            Path(path).write_text(text)
    print(result["summary"])


if __name__ == "__main__":
    command.run(main, lambda: command.define_fields(PeerConfig))
