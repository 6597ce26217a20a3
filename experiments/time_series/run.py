"""Long-term forecasting in the field's protocol (paper, section 5.6 and Table 3).

    python -m experiments.time_series.run --dataset=ETTh1 --data_dir=DIR

Look-back 96, horizons 96, 192, 336, 720, every test window, MSE and MAE of standardised values, three seeds, candidates
chosen on validation (recipes.py). Every training is written to OUTPUT/DATASET.json as it ends, with the commit, the
machine and the seconds, and the table OUTPUT/DATASET.md after each; the same command goes on with what is missing.
The linear models and LMM took 6 CPU-minutes on ETTh1, PatchTST with one seed as long; LMM with one seed 10 on Weather.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import shlex
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from flax import nnx

from experiments.comparison.provenance import provenance
from experiments.time_series.datasets import Dataset, load_dataset
from experiments.time_series.recipes import LOOKBACK, MODELS, Candidate
from experiments.time_series.report import HORIZONS, RESULTS, markdown
from titans_jax.forecasting.training import evaluate, train
from titans_jax.forecasting.windows import window_starts


def train_candidate(
    data: Dataset, horizon: int, candidate: Candidate, seed: int, epochs: int | None = None
) -> tuple[nnx.Module, dict[str, Any]]:
    """Trains one model.

    Args:
        data: the data set.
        horizon: rows to predict.
        candidate: how.
        seed: of everything random.
        epochs: at most, where that is fewer than the recipe's.

    Returns:
        The model and its record, without test errors.
    """
    start, start_cpu = time.perf_counter(), time.process_time()
    training = candidate.training
    if epochs is not None:
        training = dataclasses.replace(training, epochs=min(epochs, training.epochs))
    model = candidate.build(data, horizon, nnx.Rngs(seed))
    starts = window_starts(data.parts, LOOKBACK, horizon)
    result = train(
        model,
        training,
        data.series,
        data.phase(candidate.season(data)),
        starts.train,
        starts.valid,
        lookback=LOOKBACK,
        horizon=horizon,
        seed=seed,
    )
    parameters = sum(int(np.prod(leaf.shape)) for leaf in jax.tree.leaves(nnx.state(model)))
    return result.model, {
        "horizon": horizon,
        "candidate": candidate.name,
        "seed": seed,
        "parameters": parameters,
        "valid": result.errors[result.best]._asdict(),
        "epoch": result.best + 1,
        "epochs": len(result.errors),
        "seconds": time.perf_counter() - start,
        "cpu_seconds": time.process_time() - start_cpu,
    }


def errors_on_test(
    data: Dataset, horizon: int, candidate: Candidate, model: nnx.Module
) -> dict[str, float]:
    """Errors over every test window."""
    starts = window_starts(data.parts, LOOKBACK, horizon).test
    phase = data.phase(candidate.season(data))
    return evaluate(model, data.series, phase, starts, lookback=LOOKBACK, horizon=horizon)._asdict()


class Runs:
    """The trainings of a data set, in a JSON file."""

    def __init__(self, path: Path, dataset: str, command: str):
        """Reads what is there.

        Args:
            path: the file.
            dataset: whose trainings they are.
            command: that makes them.
        """
        self.path = path
        self.content: dict[str, Any] = {"dataset": dataset, "command": command, "runs": []}
        if path.exists():
            self.content = {**json.loads(path.read_text(encoding="utf-8")), "command": command}

    def find(self, model: str, horizon: int, candidate: str, seed: int) -> dict[str, Any] | None:
        """The record of a training, None if it is missing."""
        wanted = {"model": model, "horizon": horizon, "candidate": candidate, "seed": seed}
        for run in self.content["runs"]:
            if all(run[key] == value for key, value in wanted.items()):
                return run
        return None

    def chosen(self, model: str, horizon: int, seed: int) -> Candidate:
        """The candidate with the least validation error of the first seed."""

        def error(candidate: Candidate) -> float:
            run = self.find(model, horizon, candidate.name, seed)
            assert run is not None, "every candidate is trained before one is chosen"
            return sum(run["valid"].values())

        return min(MODELS[model], key=error)

    def write(self, run: dict[str, Any] | None = None) -> None:
        """Adds a training, if one is given, and writes the JSON and the table."""
        if run is not None:
            old = self.find(run["model"], run["horizon"], run["candidate"], run["seed"])
            self.content["runs"] = [r for r in self.content["runs"] if r is not old] + [run]
        self.path.parent.mkdir(parents=True, exist_ok=True)
        text = json.dumps(self.content, indent=1) + "\n"
        for path, written in (
            (self.path, text),
            (self.path.with_suffix(".md"), markdown(self.content)),
        ):
            temporary = path.with_suffix(path.suffix + ".tmp")
            temporary.write_text(written, encoding="utf-8")
            os.replace(temporary, path)


def run_model(
    data: Dataset, model: str, horizon: int, seeds: Sequence[int], runs: Runs, epochs: int | None
) -> None:
    """Trains what is missing of a model at a horizon: all candidates with the first seed, the best with all.

    Args:
        data: the data set.
        model: its name in `MODELS`.
        horizon: rows to predict.
        seeds: the first one chooses.
        runs: where records go.
        epochs: see `train_candidate`.
    """

    def run(candidate: Candidate, seed: int) -> tuple[nnx.Module, dict[str, Any]]:
        trained, record = train_candidate(data, horizon, candidate, seed, epochs)
        return trained, {"model": model, **record, **provenance()}

    trained: dict[str, nnx.Module] = {}
    for candidate in MODELS[model]:
        if runs.find(model, horizon, candidate.name, seeds[0]) is None:
            trained[candidate.name], record = run(candidate, seeds[0])
            runs.write(record)
    chosen = runs.chosen(model, horizon, seeds[0])
    for seed in seeds:
        found = runs.find(model, horizon, chosen.name, seed)
        if found is not None and "test" in found:
            continue
        best = trained.get(chosen.name) if seed == seeds[0] else None
        if found is None or best is None:  # errors are known of a model that was not kept
            best, found = run(chosen, seed)
        record = {**found, "test": errors_on_test(data, horizon, chosen, best)}
        runs.write(record)
        print(
            f"{data.name} {horizon} {model} ({chosen.name}) seed {seed}: test MSE "
            f"{record['test']['mse']:.4f}, MAE {record['test']['mae']:.4f}, {record['cpu_seconds']:.0f} CPU-seconds",
            flush=True,
        )


def parse_arguments(arguments: Sequence[str]) -> argparse.Namespace:
    """The command's flags, checked."""
    parser = argparse.ArgumentParser(
        "experiments.time_series.run",
        description="Long-term forecasting in the field's protocol.",
    )
    parser.add_argument(
        "--dataset", required=True, help="a name (datasets.py), or a file name ending in .csv"
    )
    parser.add_argument(
        "--data_dir", default=os.environ.get("TITANS_DATA"), help="folder of the CSVs"
    )
    parser.add_argument("--models", default=",".join(MODELS), help="names, with commas between")
    parser.add_argument(
        "--horizons", default=",".join(map(str, HORIZONS)), help="with commas between"
    )
    parser.add_argument("--seeds", default="0,1,2", help="with commas between; the first chooses")
    parser.add_argument("--epochs", type=int, help="at most, for a quick trial")
    parser.add_argument(
        "--max_minutes", type=float, default=np.inf, help="start no training after so long"
    )
    parser.add_argument("--output", type=Path, default=RESULTS, help="folder of the results")
    options = parser.parse_args(arguments)
    if options.data_dir is None:
        parser.error(
            "--data_dir (or the environment variable TITANS_DATA) must name a folder of CSVs"
        )
    options.models = options.models.split(",")
    for model in options.models:
        if model not in MODELS:
            parser.error(f"--models: {model!r} is not one of {', '.join(MODELS)}")
    for name, least in (("horizons", 1), ("seeds", 0)):
        values = [int(x) if x.isdecimal() else -1 for x in getattr(options, name).split(",")]
        if min(values) < least:
            parser.error(f"--{name}={getattr(options, name)}: must be integers from {least} on")
        setattr(options, name, values)
    if options.epochs is not None and options.epochs < 1:
        parser.error(f"--epochs={options.epochs}: must be a positive integer")
    return options


def main(arguments: Sequence[str]) -> None:
    """Runs what is missing."""
    options = parse_arguments(arguments)
    try:
        data = load_dataset(options.dataset, options.data_dir)
        for horizon in options.horizons:
            window_starts(data.parts, LOOKBACK, horizon)  # too short a series, before any training
    except (FileNotFoundError, ValueError) as error:
        sys.exit(str(error))
    # Folders differ from machine to machine.
    said = [
        "--data_dir=DIR" if a.startswith("--data_dir=") else a
        for a in arguments
        if not a.startswith("--output=")
    ]
    command = shlex.join(["python", "-m", "experiments.time_series.run", *said])
    runs = Runs(options.output / f"{Path(options.dataset).stem}.json", options.dataset, command)
    deadline = time.monotonic() + 60 * options.max_minutes
    for model in options.models:
        for horizon in options.horizons:
            if time.monotonic() > deadline:
                print("out of --max_minutes: the same command goes on", flush=True)
                return
            run_model(data, model, horizon, options.seeds, runs, options.epochs)
    runs.write()


if __name__ == "__main__":
    main(sys.argv[1:])
