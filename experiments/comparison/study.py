"""A study: the same sweep of learning rates for every model, then every seed at each model's best rate."""

import math
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from experiments.comparison.config import StudyConfig
from experiments.comparison.task import SELECTION, Task
from experiments.comparison.trial import (
    Trial,
    check_folder,
    forget_programs,
    read_record,
    run_trial,
)
from experiments.training.processes import say
from titans_jax import TitansConfig
from titans_jax.matching import count_parameters


def run_study(
    task: Task, models: Mapping[str, TitansConfig], config: StudyConfig, workdir: Path
) -> dict[str, Any]:
    """Runs what is missing of a study; several processes may share the work in one folder.

    Args:
      task: see task.py.
      models: by the names that the tables show.
      config: how all of them are trained.
      workdir: folder of the trials; a study that was interrupted goes on there.

    Returns:
      "task"; "config" (of the study); "seconds" of all trials; "complete"; and "models", for each name with at least
      its sweep done: "parameters", "learning_rate" (the best), "sweep" (rate: selection, None where training
      diverged), "seeds" that are done, "mean" and "std" (nested like the task's judgement; the sample deviation,
      None with one seed) and "trials" (the records).

    Raises:
      ValueError: before any training, if models differ in size or a folder holds other trials.
    """
    check_sizes(models, config.tolerance)
    for name, model in models.items():
        for rate in config.learning_rates:
            for seed in config.seeds:
                check_folder(Trial(name, model, rate, seed, config), task, workdir)
    deadline = time.monotonic() + 3600 * config.max_hours if config.max_hours else math.inf
    found: dict[str, Any] = {}
    for name, model in models.items():
        records: dict[tuple[float, int], dict[str, Any]] = {}
        for trial in _trials(name, model, config, records):
            record = read_record(trial.folder(workdir))
            if record is None and time.monotonic() < deadline:
                record = run_trial(trial, task, workdir)
                say(_line(trial, record))
            elif record is None:
                say(f"{_title(trial)}: left for another start")
            if record is not None:
                records[trial.learning_rate, trial.seed] = record
        forget_programs()  # the next model has others
        if all((rate, config.seeds[0]) in records for rate in config.learning_rates):
            found[name] = _summary(model, config, records)
    return {
        "task": task.describe(),
        "config": _shared(config),
        "seconds": sum(r["seconds"] for model in found.values() for r in model["trials"]),
        "complete": len(found) == len(models)
        and all(
            set(model["seeds"]) == set(config.seeds) or model["mean"] is None
            for model in found.values()
        ),
        "models": found,
    }


def check_sizes(models: Mapping[str, TitansConfig], tolerance: float) -> None:
    """Refuses models of different size.

    Raises:
      ValueError: names each that is off.
    """
    if not models:
        raise ValueError("models: at least one must be given")
    sizes = {name: count_parameters(model) for name, model in models.items()}
    first, wanted = next(iter(sizes.items()))
    off = [
        f"{name} {size:,}"
        for name, size in sizes.items()
        if abs(size - wanted) > tolerance * wanted
    ]
    if off:
        raise ValueError(
            f"parameters must be within study.tolerance={tolerance} of {first}'s {wanted:,}; off: {', '.join(off)}"
        )


def _trials(
    name: str,
    model: TitansConfig,
    config: StudyConfig,
    records: dict[tuple[float, int], dict[str, Any]],
) -> Iterator[Trial]:
    """The sweep, then what the sweep's `records` say."""
    for rate in config.learning_rates:
        yield Trial(name, model, rate, config.seeds[0], config)
    swept = all((rate, config.seeds[0]) in records for rate in config.learning_rates)
    best = _best(config, records) if swept else None
    if best is not None:
        for seed in config.seeds[1:]:
            yield Trial(name, model, best, seed, config)


def _selection(record: dict[str, Any]) -> float:
    value = math.inf if record["results"] is None else record["results"][SELECTION]
    return value if math.isfinite(value) else math.inf


def _best(config: StudyConfig, records: dict[tuple[float, int], dict[str, Any]]) -> float | None:
    """The rate with the best selection; None if no training came to its end."""
    scores = {rate: _selection(records[rate, config.seeds[0]]) for rate in config.learning_rates}
    best = min(scores, key=lambda rate: scores[rate])
    return best if scores[best] < math.inf else None


def _summary(
    model: TitansConfig, config: StudyConfig, records: dict[tuple[float, int], dict[str, Any]]
) -> dict[str, Any]:
    best = _best(config, records)
    sweep = {
        f"{rate:g}": _selection(records[rate, config.seeds[0]]) for rate in config.learning_rates
    }
    seeds = [seed for seed in config.seeds if (best, seed) in records]
    judged = [records[best, seed]["results"] for seed in seeds] if best is not None else []
    judged = [results for results in judged if results is not None]
    return {
        "parameters": count_parameters(model),
        "learning_rate": best,
        "sweep": {rate: value if value < math.inf else None for rate, value in sweep.items()},
        "seeds": seeds,
        **statistics(judged),
        "trials": list(records.values()),
    }


def statistics(judged: list[dict[str, Any]]) -> dict[str, Any]:
    """The "mean" and "std" of the seeds' judgements, nested like them; None of none, and no deviation of one.

    Args:
      judged: what the task says of each seed's model, all of one structure.
    """
    return {
        "mean": _over(judged, np.mean) if judged else None,
        "std": _over(judged, lambda x: np.std(x, ddof=1)) if len(judged) > 1 else None,
    }


def _over(trees: list[Any], statistic: Any) -> Any:
    """A statistic of each number over trees of nested dicts, all of one structure."""
    if isinstance(trees[0], dict):
        return {key: _over([tree[key] for tree in trees], statistic) for key in trees[0]}
    return float(statistic(trees))


def _shared(config: StudyConfig) -> dict[str, Any]:
    return {
        "steps": config.steps,
        "learning_rates": list(config.learning_rates),
        "seeds": list(config.seeds),
    }


def _title(trial: Trial) -> str:
    return f"{trial.name} rate {trial.learning_rate:g} seed {trial.seed}"


def _line(trial: Trial, record: dict[str, Any] | None) -> str:
    if record is None:
        return f"{_title(trial)}: another process is at it"
    loss = record["curve"][-1][1] if record["curve"] else math.nan
    judged = "diverged" if record["results"] is None else f"selection {_selection(record):.4f}"
    return f"{_title(trial)}: loss {loss:.4f}, {judged}, {record['seconds']:.0f} s"
