"""Speed and memory of a training step: tokens a second, and what XLA's buffers for it need.

The step is that of `experiments.train`: loss, gradients, clipping, AdamW. Memory is what the compiled step holds at a
time by its buffer assignment: parameters, optimizer state, batch and temporaries; not what a process takes beside it.
"""

import dataclasses
import statistics
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from experiments.comparison.store import keep, machine, origin, plain
from experiments.training.config import OptimizerConfig
from experiments.training.optimizer import make_optimizer
from experiments.training.step import init_params, make_train_step, split_model
from titans_jax import TitansConfig
from titans_jax.matching import count_parameters

#: What pages show of a measurement.
SHOWN = ("parameters", "bytes", "tokens_per_second", "std")


def measure_all(
    models: Mapping[str, TitansConfig],
    shapes: Sequence[tuple[int, int]],
    repeats: int,
    workdir: Path,
) -> dict[str, Any]:
    """Measures what is missing of every model at every shape.

    Args:
      models: by name.
      shapes: (tokens of a sequence, sequences) of a step.
      repeats: steps that are timed.
      workdir: folder of what is measured; another start goes on there.

    Returns:
      "origin", and "rows" with "model", "length", "batch_size" and `SHOWN`; what another process is at is left out.

    Raises:
      ValueError: a folder holds another measurement.
    """
    records, rows = [], []
    for length, batch in shapes:
        for name, model in models.items():
            shape = {"length": length, "batch_size": batch}
            key = plain(
                {
                    "model": dataclasses.asdict(model),
                    **shape,
                    "repeats": repeats,
                    "machine": machine(),
                }
            )

            def measured(
                model: TitansConfig = model, shape: dict[str, int] = shape
            ) -> dict[str, Any]:
                jax.clear_caches()
                return measure(model, repeats=repeats, **shape)

            record = keep(workdir / name / f"length_{length}", key, measured)
            if record is None:
                continue
            records.append(record)
            rows.append({"model": name, **shape, **{n: record[n] for n in SHOWN}})
            print(
                f"{name}, {batch} x {length}: {record['tokens_per_second']:,.0f} ± {record['std']:,.0f} tokens/s, "
                f"{record['bytes'] / 2**20:,.0f} MiB",
                flush=True,
            )
    return {"origin": origin(records), "rows": rows}


def measure(model: TitansConfig, batch_size: int, length: int, repeats: int) -> dict[str, Any]:
    """Times the training step of a model on random tokens.

    Args:
      model: the language model.
      batch_size: sequences per step.
      length: tokens of each.
      repeats: steps that are timed, after one that is not.

    Returns:
      "parameters", "compile_seconds", "bytes" (module docstring), "timed" (seconds of each step), "tokens_per_second"
      by the median step, and their "std".
    """
    optimizer = make_optimizer(OptimizerConfig(), steps=repeats + 1)
    params = init_params(model, seed=0)
    opt_state = optimizer.init(params)
    tokens = np.random.default_rng(0).integers(0, model.vocab_size, (batch_size, length + 1))
    batch = {
        "inputs": tokens[:, :-1].astype(np.int32),
        "targets": tokens[:, 1:].astype(np.int32),
        "loss_mask": np.ones((batch_size, length), bool),
    }
    began = time.perf_counter()
    step = make_train_step(split_model(model)[0], optimizer, accumulation=1)
    compiled = step.lower(params, opt_state, batch).compile()
    compile_seconds = time.perf_counter() - began
    seconds = []
    for _ in range(repeats + 1):
        began = time.perf_counter()
        params, opt_state, metrics = compiled(params, opt_state, batch)
        jax.block_until_ready((params, metrics))
        seconds.append(time.perf_counter() - began)
    speeds = [batch_size * length / s for s in seconds[1:]]
    return {
        "parameters": count_parameters(model),
        "compile_seconds": compile_seconds,
        "bytes": _bytes(compiled),
        "timed": seconds[1:],
        "tokens_per_second": statistics.median(speeds),
        "std": statistics.stdev(speeds) if repeats > 1 else 0.0,
    }


def _bytes(compiled: Any) -> int:
    memory = compiled.memory_analysis()
    held = memory.argument_size_in_bytes + memory.output_size_in_bytes - memory.alias_size_in_bytes
    return int(held + memory.temp_size_in_bytes)
