"""Prompts of up to a million tokens and more, read by the trained models of a finished study as streams."""

import time
from pathlib import Path
from typing import Any

from experiments.babilong.task import Babilong, BabilongConfig
from experiments.comparison.store import keep, machine, origin
from experiments.comparison.trial import Trial
from experiments.language_modeling.saved_models import load_trial
from titans_jax import TitansConfig


def stream_rows(
    study: dict[str, Any],
    task: Babilong,
    models: dict[str, TitansConfig],
    config: BabilongConfig,
    workdir: Path,
) -> dict[str, Any]:
    """Accuracy of every seed of the streaming models by task and length.

    Args:
      study: finished, of these models.
      task: of the study.
      models: by name.
      config: see BabilongConfig.
      workdir: of the trials.

    Returns:
      "origin", and "rows" with "model", "seed", "task", "length", "samples", "accuracy", "tokens_per_second". What an
      earlier start has measured is read; what another process is at is left out.
    """
    records, rows = [], []
    rates = {f"rate {rate:g}": rate for rate in config.study.learning_rates}
    for name in config.stream_models:
        done = study["models"].get(name)
        for seed in done["seeds"] if done else ():
            trial = Trial(name, models[name], rates[done["best"]], seed, config.study)
            for length in config.stream_lengths:
                for number in config.tasks:
                    record = _row(trial, task, number, length, config.stream_samples, workdir)
                    if record is None:
                        continue
                    row = {
                        name: record[name] for name in ("accuracy", "samples", "tokens_per_second")
                    }
                    records.append(record)
                    rows.append(
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
    return {"origin": origin(records), "rows": rows}


def _row(
    trial: Trial, task: Babilong, number: int, length: int, samples: int, workdir: Path
) -> dict[str, Any] | None:
    """The record of one model at one task and length."""
    folder = workdir / "streams" / trial.name / f"seed_{trial.seed}" / f"qa{number}_{length}"
    asked = {"task": number, "length": length, "samples": samples, "machine": machine()}
    key = {"trial": trial.describe(task), **asked}

    def measure() -> dict[str, Any]:
        _, model = load_trial(trial.model, trial.folder(workdir))
        began = time.perf_counter()
        right = task.accuracy(model, number, length, samples)
        speed = samples * length / (time.perf_counter() - began)
        return {"accuracy": right, "samples": samples, "tokens_per_second": speed}

    return keep(folder, key, measure)
