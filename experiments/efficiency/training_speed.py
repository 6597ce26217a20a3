"""Speed and memory of a training step: tokens a second, and what XLA's buffers for it need.

The step is that of `experiments.train`: loss, gradients, clipping, AdamW. Memory is what the compiled step holds at a
time by its buffer assignment: parameters, optimizer state, batch and temporaries; not what a process takes beside it.
"""

import statistics
import time
from typing import Any

import jax
import numpy as np

from experiments.training.config import OptimizerConfig
from experiments.training.optimizer import make_optimizer
from experiments.training.step import init_params, make_train_step, split_model
from titans_jax import TitansConfig
from titans_jax.matching import count_parameters


def measure(model: TitansConfig, batch_size: int, length: int, repeats: int) -> dict[str, Any]:
    """Times the training step of a model on random tokens.

    Args:
      model: the language model.
      batch_size: sequences per step.
      length: tokens of each.
      repeats: steps that are timed, after one that is not.

    Returns:
      "parameters", "compile_seconds", "bytes" (module docstring), "seconds" of each step, "tokens_per_second" by
      the median step, and their "std".
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
        "seconds": seconds[1:],
        "tokens_per_second": statistics.median(speeds),
        "std": statistics.stdev(speeds) if repeats > 1 else 0.0,
    }


def _bytes(compiled: Any) -> int:
    memory = compiled.memory_analysis()
    held = memory.argument_size_in_bytes + memory.output_size_in_bytes - memory.alias_size_in_bytes
    return int(held + memory.temp_size_in_bytes)
