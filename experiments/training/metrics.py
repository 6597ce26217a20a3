"""Metrics of a run: fetched from the device one step late, written down, and shortly on the console."""

import contextlib
import math
import resource
import sys
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax

from experiments.training.groups import GROUPS
from experiments.training.processes import is_first, say
from experiments.training.step import StepMetrics
from experiments.training.step_clock import StepClock
from experiments.training.writers import Record, Writer


class Work(NamedTuple):
    """What a step amounts to."""

    tokens: int  # in a batch
    tokens_per_byte: float  # of the training text; turns nats per token into bits per byte
    devices: int = 1
    flops_per_token: float = 0.0  # 0: not counted, because the devices' peak is not known
    peak: float = 0.0  # FLOP/s of a device


class MetricsLog:
    """Writes what each step reports.

    `push` keeps a step's results on the device and fetches those of the step before, which are ready by then: the
    device always has the next step queued while the host waits.

    Each step gives "loss", "bpb", "grad_norm" and "learning_rate", and "skipped" if it was; where the console gets a
    line also norms by group of parameters, speed, step times, goodput and memory. What was measured by a clock has its
    name in `CLOCKED`.
    """

    CLOCKED = (
        "tokens_per_second",
        "tokens_per_second_per_device",
        "mfu",
        "step_seconds_p50",
        "step_seconds_p90",
        "step_seconds_p99",
        "goodput",
        "device_memory_bytes",
        "ram_bytes",
    )

    def __init__(
        self,
        records: Sequence[Record],
        writers: Sequence[Writer],
        *,
        name: str,
        steps: int,
        work: Work,
        log_every: int,
        learning_rate: Callable[[int], Any],
        clock: StepClock | None = None,
    ):
        """Continues after `records`.

        Args:
          records: of earlier starts, up to the step that is continued from; the writers have them.
          writers: for new ones; none in all processes but the first.
          name: of the model, for the console.
          steps: steps of the whole run.
          work: what a step amounts to.
          log_every: steps between console lines.
          learning_rate: optimizer steps done -> rate, for the record.
          clock: None for a new one.
        """
        self.records = list(records)
        self._writers, self._name, self._steps = writers, name, steps
        self._work, self._log_every, self._learning_rate = work, log_every, learning_rate
        self._skipped = sum(record.get("skipped", 0) for record in self.records)
        self._pending: tuple[int, StepMetrics] | None = None
        self._clock = StepClock() if clock is None else clock

    def push(self, step: int, metrics: StepMetrics) -> list[tuple[int, StepMetrics]]:
        """Takes the metrics of `step` (1 = the first) and writes those of the step before.

        Returns:
          The step before and its metrics, now on the host; nothing if there is none.
        """
        ready, self._pending = self._pending, (step, metrics)
        return [] if ready is None else [self._write(*ready)]

    def flush(self) -> list[tuple[int, StepMetrics]]:
        """Writes the last pushed metrics as well; waits for the device.

        Returns:
          As `push`.
        """
        ready, self._pending = self._pending, None
        written = [] if ready is None else [self._write(*ready)]
        for writer in self._writers:
            writer.flush()
        return written

    def validation(self, step: int, bits_per_byte: float, batches: int | None = None) -> None:
        """Records a validation at `step` and prints it.

        Args:
          step: after which it was.
          bits_per_byte: what came out.
          batches: validation batches that were scored, as "valid_batches_bpb"; None for the whole held-out text, as
            "valid_bpb".
        """
        name = "valid_bpb" if batches is None else "valid_batches_bpb"
        scored = "all held-out text" if batches is None else f"the first {batches} batches"
        self.record({"step": step, name: bits_per_byte})
        say(
            f"{self._name} step {step}/{self._steps}  validation {bits_per_byte:.4f} bits per byte of {scored}"
        )
        self.restart_clock()

    def record(self, record: Record) -> None:
        """Writes a record; it has a "step"."""
        self.records.append(record)
        for writer in self._writers:
            writer.write(record)

    def restart_clock(self) -> None:
        """Leaves the time since the last step out of the speed (validation, checkpoints)."""
        self._clock.restart()

    def close(self) -> None:
        """Closes the files, all of them, whatever becomes of one."""
        with contextlib.ExitStack() as stack:
            for writer in reversed(self._writers):
                stack.callback(writer.close)

    def _write(self, step: int, metrics: StepMetrics) -> tuple[int, StepMetrics]:
        metrics = jax.device_get(metrics)
        self._clock.step()
        loss = float(metrics.loss)
        record: Record = {
            "step": step,
            "loss": loss,
            "bpb": loss / math.log(2) * self._work.tokens_per_byte,
            "grad_norm": float(metrics.grad_norm),
            "learning_rate": float(self._learning_rate(step - 1 - self._skipped)),
        }
        if metrics.bad:  # the schedule counts the steps that were taken
            record["skipped"] = 1
            self._skipped += 1
        shown = step % self._log_every == 0 or step in (1, self._steps)
        if shown:
            record |= _by_group("grad_norm", metrics.grad_norms)
            record |= _by_group("update_norm", metrics.update_norms)
            record |= self._speed()
        self.record(record)
        if shown and is_first():
            self._print(record)
        return step, metrics

    def _speed(self) -> Record:
        times = self._clock.report()
        speed: Record = peak_memory()
        mean = times.pop("step_seconds_mean", None)
        if mean is not None:
            work = self._work
            rate = work.tokens / mean
            speed["tokens_per_second"] = round(rate, 1)
            speed["tokens_per_second_per_device"] = round(rate / work.devices, 1)
            if work.peak:
                speed["mfu"] = rate * work.flops_per_token / (work.devices * work.peak)
        return speed | times

    def _print(self, record: Record) -> None:
        step, speed = record["step"], record.get("tokens_per_second")
        eta = (self._steps - step) * self._work.tokens / speed if speed else None
        print(
            f"{self._name} step {step}/{self._steps}  loss {record['loss']:.4f}  bpb {record['bpb']:.4f}  "
            f"lr {record['learning_rate']:.2e}  grad {record['grad_norm']:.2f}  "
            + (f"{speed:,.0f} tokens/s  eta {_hours(eta)}  " if speed and eta is not None else "")
            + (f"mfu {record['mfu']:.1%}  " if "mfu" in record else "")
            + _memory(record),
            flush=True,
        )


def peak_memory() -> Record:
    """Returns the device's peak bytes in use, or, where the device keeps no count (CPU), the process's peak of RAM."""
    stats = jax.local_devices()[0].memory_stats()
    if stats and "peak_bytes_in_use" in stats:
        return {"device_memory_bytes": stats["peak_bytes_in_use"]}
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return {"ram_bytes": peak if sys.platform == "darwin" else peak * 1024}


def _memory(record: Record) -> str:
    names = {"device_memory_bytes": "device memory", "ram_bytes": "RAM"}
    return "  ".join(
        f"{said} {record[name] / 2**30:.2f} GiB" for name, said in names.items() if name in record
    )


def _by_group(name: str, norms: Any) -> Record:
    values = zip(GROUPS, map(float, norms), strict=True)
    return {f"{name}/{group}": value for group, value in values if value}


def _hours(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{seconds:02d}" if hours else f"{minutes}:{seconds:02d}"
