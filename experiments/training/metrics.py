"""Metrics of a run: fetched from the device one step late, written to metrics.jsonl, TensorBoard and the console."""

import json
import math
import resource
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TextIO

import jax
from tensorboardX import SummaryWriter

from experiments.training.step import StepMetrics


class MetricsLog:
    """Writes what each step reports.

    `push` keeps a step's device scalars and fetches those of the step before, which are ready by then: the device
    always has the next step queued while the host waits.
    """

    def __init__(
        self,
        folder: Path,
        *,
        name: str,
        start_step: int,
        steps: int,
        tokens_per_step: int,
        tokens_per_byte: float,
        log_every: int,
        learning_rate: Callable[[int], Any],
    ):
        """Opens `folder`/metrics.jsonl and TensorBoard's files beside it, continuing after `start_step`.

        Args:
          folder: where to write.
          name: of the model, for the console.
          start_step: steps done before; records of later ones (a run stopped after its last checkpoint) are dropped,
            because those steps are about to be done again.
          steps: steps of the whole run.
          tokens_per_step: tokens in a batch.
          tokens_per_byte: of the training text; turns nats per token into bits per byte.
          log_every: steps between console lines.
          learning_rate: step -> rate, for the record.
        """
        self._name, self._steps, self._log_every = name, steps, log_every
        self._tokens_per_step, self._tokens_per_byte = tokens_per_step, tokens_per_byte
        self._learning_rate = learning_rate
        self.records = _records_until(folder / "metrics.jsonl", start_step)
        self._file = _reopen(folder / "metrics.jsonl", self.records)
        self._board = SummaryWriter(str(folder / "tensorboard"), purge_step=start_step + 1)
        self._pending: tuple[int, StepMetrics] | None = None
        self._clock: tuple[int, float] | None = None  # (step, time) where the rate is counted from

    def push(self, step: int, metrics: StepMetrics) -> None:
        """Takes the metrics of `step` (1 = the first) and writes those of the step before.

        Raises:
          FloatingPointError: a loss is not finite.
        """
        ready, self._pending = self._pending, (step, metrics)
        if ready is not None:
            self._write(*ready)

    def flush(self) -> None:
        """Writes the last pushed metrics as well; waits for the device.

        Raises:
          FloatingPointError: a loss is not finite.
        """
        ready, self._pending = self._pending, None
        if ready is not None:
            self._write(*ready)
        self._file.flush()

    def validation(self, step: int, bits_per_byte: float) -> None:
        """Records a validation at `step` and prints it."""
        self._record({"step": step, "valid_bpb": bits_per_byte})
        print(
            f"{self._name} step {step}/{self._steps}  validation {bits_per_byte:.4f} bits per byte",
            flush=True,
        )

    def pause(self) -> None:
        """Leaves the time until the next step out of the speed (validation, checkpoints)."""
        self._clock = None

    def close(self) -> None:
        """Closes the files."""
        self._file.close()
        self._board.close()

    def _write(self, step: int, metrics: StepMetrics) -> None:
        loss, grad_norm = (float(x) for x in jax.device_get(metrics))
        record = {
            "step": step,
            "loss": loss,
            "bpb": loss / math.log(2) * self._tokens_per_byte,
            "grad_norm": grad_norm,
            "learning_rate": float(self._learning_rate(step - 1)),
        }
        now = time.perf_counter()
        if self._clock is None:
            self._clock = (step, now)  # the first step compiles
        elif step % self._log_every == 0 or step == self._steps:
            done, since = step - self._clock[0], now - self._clock[1]
            record["tokens_per_second"] = round(done * self._tokens_per_step / since, 1)
            self._clock = (step, now)
        self._record(record)
        if step % self._log_every == 0 or step in (1, self._steps):
            self._print(record)
        if not math.isfinite(loss):
            raise FloatingPointError(
                f"{self._name}: loss is {loss} at step {step} (gradient norm {grad_norm}); no checkpoint holds it. "
                "Lower config.optimizer.learning_rate or config.optimizer.clip_norm"
            )

    def _record(self, record: dict[str, Any]) -> None:
        self.records.append(record)
        self._file.write(json.dumps(record) + "\n")
        for key, value in record.items():
            if key != "step":
                self._board.add_scalar(key, value, record["step"])

    def _print(self, record: dict[str, Any]) -> None:
        step, speed = record["step"], record.get("tokens_per_second")
        eta = (self._steps - step) * self._tokens_per_step / speed if speed else None
        print(
            f"{self._name} step {step}/{self._steps}  loss {record['loss']:.4f}  bpb {record['bpb']:.4f}  "
            f"lr {record['learning_rate']:.2e}  grad {record['grad_norm']:.2f}  "
            + (f"{speed:,.0f} tokens/s  eta {_clock(eta)}  " if speed and eta is not None else "")
            + f"memory {peak_memory() / 2**30:.2f} GiB",
            flush=True,
        )


def peak_memory() -> int:
    """Returns the device's peak bytes in use, or, where the device keeps no count (CPU), the process's peak."""
    stats = jax.local_devices()[0].memory_stats()
    if stats and "peak_bytes_in_use" in stats:
        return stats["peak_bytes_in_use"]
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def _records_until(path: Path, last_step: int) -> list[dict[str, Any]]:
    if not path.exists():
        return []
    records = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            record = json.loads(line)
        except json.JSONDecodeError:
            continue  # the line a killed run was writing
        if record["step"] <= last_step:
            records.append(record)
    return records


def _reopen(path: Path, records: list[dict[str, Any]]) -> TextIO:
    # Replaced in one move: a run killed here keeps its old records.
    rewritten = path.with_suffix(".rewritten")
    rewritten.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
    rewritten.replace(path)
    return path.open("a", encoding="utf-8")


def _clock(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{seconds:02d}" if hours else f"{minutes}:{seconds:02d}"
