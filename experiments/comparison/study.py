"""A study: every candidate of every model with the first seed, then each model's best one with all seeds.

Candidates are what a model is tuned by: learning rates, or ways to build and train it. All models have the same effort
spent on them, and what a page shows was chosen without the test.
"""

import functools
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from experiments.comparison.config import SELECTION, StudyConfig, Task
from experiments.comparison.store import check_same, keep, origin, plain, read_record
from experiments.comparison.trial import Trial, forget_programs, run_trial
from experiments.training.processes import say
from titans_jax import TitansConfig
from titans_jax.matching import count_parameters


class Training(NamedTuple):
    """One training of a study, kept in a folder.

    Attributes:
      folder: of the store.
      key: all that decides it, as JSON values.
      run: its record (store.py), trained if it is missing. The record has "parameters" and "results": what is judged,
        with `SELECTION` where there are several candidates, or None if the training diverged.
    """

    folder: Path
    key: dict[str, Any]
    run: Callable[[], dict[str, Any] | None]


#: The training of a candidate with a seed.
Train = Callable[[int], Training]


def kept(folder: Path, key: dict[str, Any], make: Callable[[], dict[str, Any]]) -> Training:
    """A training that `make` does in one go."""
    return Training(folder, key, functools.partial(keep, folder, key, make))


def run_study(
    task: Task, models: Mapping[str, TitansConfig], config: StudyConfig, workdir: Path
) -> dict[str, Any]:
    """Runs what is missing of a study of language models; several processes may share the work in one folder.

    Args:
      task: see config.py.
      models: by the names that the results have.
      config: how all of them are trained.
      workdir: folder of the trials; a study that was interrupted goes on there.

    Returns:
      As `compare`, with "task" and "config" (of the study).

    Raises:
      ValueError: before any training, if models differ in size or a folder holds other trials.
    """
    check_sizes(models, config.tolerance)

    def training(name: str, rate: float, seed: int) -> Training:
        trial = Trial(name, models[name], rate, seed, config)
        run = functools.partial(run_trial, trial, task, workdir)
        return Training(trial.folder(workdir), trial.describe(task), run)

    rates = {f"rate {rate:g}": rate for rate in config.learning_rates}
    trainings = {
        name: {said: functools.partial(training, name, rate) for said, rate in rates.items()}
        for name in models
    }
    shared = {
        "steps": config.steps,
        "learning_rates": list(config.learning_rates),
        "seeds": list(config.seeds),
    }
    found = compare(trainings, config.seeds, hours=config.max_hours)
    return {"task": plain(task.describe()), "config": shared, **found}


def compare(
    models: Mapping[str, Mapping[str, Train]], seeds: Sequence[int], *, hours: float = 0.0
) -> dict[str, Any]:
    """Runs what is missing of a study.

    Args:
      models: of each model its candidates, of each candidate its training with a seed.
      seeds: the first one chooses.
      hours: start no training after so long; 0 for no limit.

    Returns:
      "origin" (store.py); "complete"; and "models", for each name with all candidates tried: "parameters" and "best"
      (of the candidate with the least selection), "sweep" (candidate: selection, None where training diverged; empty
      where nothing is chosen), "seeds" that are done with the best and their "results", and "cpu_seconds", the mean of
      its trainings.

    Raises:
      ValueError: before any training, if a folder holds another result.
    """
    for candidates in models.values():
        for train in candidates.values():
            for seed in seeds:
                training = train(seed)
                check_same(training.folder, training.key)
    deadline = time.monotonic() + 3600 * hours if hours else math.inf
    found, every = {}, []
    for name, candidates in models.items():
        records: dict[tuple[str, int], dict[str, Any]] = {}
        for candidate, seed in _wanted(candidates, seeds, records):
            training, title = candidates[candidate](seed), f"{name} {candidate} seed {seed}"
            record = read_record(training.folder)
            if record is None and time.monotonic() < deadline:
                record = training.run()
                say(_line(title, record))
            elif record is None:
                say(f"{title}: left for another start")
            if record is not None:
                records[candidate, seed] = record
        forget_programs()  # the next model has others
        every += list(records.values())
        if _swept(candidates, seeds, records):
            found[name] = _summary(candidates, seeds, records)
    done = (m["best"] is None or m["seeds"] == list(seeds) for m in found.values())
    return {
        "origin": origin(every),
        "complete": len(found) == len(models) and all(done),
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


Records = Mapping[tuple[str, int], Mapping[str, Any]]


def _wanted(
    candidates: Mapping[str, Train], seeds: Sequence[int], records: Records
) -> Iterator[tuple[str, int]]:
    """The sweep, then what the sweep's `records` say."""
    yield from ((candidate, seeds[0]) for candidate in candidates)
    best = _best(candidates, seeds, records) if _swept(candidates, seeds, records) else None
    if best is not None:
        yield from ((best, seed) for seed in seeds[1:])


def _swept(candidates: Mapping[str, Train], seeds: Sequence[int], records: Records) -> bool:
    return all((candidate, seeds[0]) in records for candidate in candidates)


def _selection(record: Mapping[str, Any]) -> float:
    """What a candidate is chosen by; 0 where there is nothing to choose."""
    value = math.inf if record["results"] is None else record["results"].get(SELECTION, 0.0)
    return value if math.isfinite(value) else math.inf


def _best(candidates: Mapping[str, Train], seeds: Sequence[int], records: Records) -> str | None:
    """The candidate with the best selection; None if no training came to its end."""
    scores = {name: _selection(records[name, seeds[0]]) for name in candidates}
    best = min(scores, key=lambda name: scores[name])
    return best if scores[best] < math.inf else None


def _summary(
    candidates: Mapping[str, Train], seeds: Sequence[int], records: Records
) -> dict[str, Any]:
    best = _best(candidates, seeds, records)
    tried = {name: records[name, seeds[0]] for name in candidates}
    sweep = {
        name: _selection(record)
        for name, record in tried.items()
        if record["results"] is None or SELECTION in record["results"]
    }
    shown = best or next(iter(candidates))
    done = [seed for seed in seeds if best is not None and (best, seed) in records]
    return {
        "parameters": records[shown, seeds[0]]["parameters"],
        "best": best,
        "sweep": {name: value if value < math.inf else None for name, value in sweep.items()},
        "seeds": done,
        "results": [records[shown, seed]["results"] for seed in done],
        "cpu_seconds": float(np.mean([record["cpu_seconds"] for record in records.values()])),
    }


def _line(title: str, record: dict[str, Any] | None) -> str:
    if record is None:
        return f"{title}: another process is at it"
    results = record["results"]
    judged = "diverged" if results is None else "done"
    if results is not None and SELECTION in results:
        judged = f"selection {_selection(record):.4f}"
    curve = record.get("curve")
    loss = f"loss {curve[-1][1]:.4f}, " if curve else ""
    return f"{title}: {loss}{judged}, {record['seconds']:.0f} s"
