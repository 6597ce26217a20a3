"""Prompts of up to a million tokens and more, read by the trained models of a finished study as streams."""

import time
from pathlib import Path
from typing import Any

from experiments.babilong.config import BabilongConfig
from experiments.babilong.task import Babilong
from experiments.comparison.trial import Trial
from experiments.efficiency.rows import Rows
from experiments.language_modeling.trained import load_trial
from titans_jax import TitansConfig


def stream_rows(
    study: dict[str, Any],
    task: Babilong,
    models: dict[str, TitansConfig],
    config: BabilongConfig,
    workdir: Path,
) -> list[dict[str, Any]]:
    """Accuracy of every seed of the streaming models by task and length.

    Args:
      study: finished, of these models.
      task: of the study.
      models: by name.
      config: see BabilongConfig.
      workdir: of the trials.

    Returns:
      Rows with "model", "seed", "task", "length", "samples", "accuracy", "tokens_per_second". What an earlier start
      has measured is read.
    """
    rows = Rows(workdir / "streams", config)
    found = []
    for name in config.stream_models:
        done = study["models"].get(name)
        for seed in done["seeds"] if done else ():
            trial = Trial(name, models[name], done["learning_rate"], seed, config.study)
            for length in config.stream_lengths:
                for number in config.tasks:

                    def measure(
                        trial: Trial = trial, number: int = number, length: int = length
                    ) -> dict[str, Any]:
                        _, model = load_trial(trial.model, trial.folder(workdir))
                        began = time.perf_counter()
                        right = task.accuracy(model, number, length, config.stream_samples)
                        seconds = time.perf_counter() - began
                        return {
                            "accuracy": right,
                            "samples": config.stream_samples,
                            "tokens_per_second": config.stream_samples * length / seconds,
                        }

                    row = rows.get(f"{name} {seed} {length} {number}", measure)
                    found.append(
                        {
                            "model": name,
                            "seed": seed,
                            "task": f"qa{number}",
                            "length": length,
                            **row,
                        }
                    )
                    print(
                        f"{name} seed {seed}, qa{number} at {length:,}: {100 * row['accuracy']:.0f} % of "
                        f"{row['samples']}, {row['tokens_per_second']:,.0f} tokens/s",
                        flush=True,
                    )
    return found
