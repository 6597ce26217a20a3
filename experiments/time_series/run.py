"""Long-term forecasting in the field's protocol (paper, section 5.6 and Table 3).

    python -m experiments.time_series.run --dataset=ETTh1 --data_dir=DIR

Look-back 96, horizons 96, 192, 336, 720, every test window, MSE and MAE of standardised values, three seeds, candidates
chosen on validation (recipes.py). The same command goes on with what is missing; WORKDIR/DATASET.json, its page and its
picture are what came out. The linear models and LMM took 6 CPU-minutes on ETTh1, PatchTST with one seed as long; LMM
with one seed 10 on Weather.
"""

import dataclasses
import functools
import time
from pathlib import Path
from typing import Any

import jax
import numpy as np
from flax import nnx

from experiments import command
from experiments.comparison.config import SELECTION
from experiments.comparison.store import fingerprint, plain
from experiments.comparison.study import Training, compare, kept
from experiments.time_series.datasets import Dataset, load_dataset
from experiments.time_series.recipes import LOOKBACK, MODELS, Candidate
from experiments.time_series.report import HORIZONS, REPORT
from titans_jax.fields import (
    check_fields,
    field,
    given,
    non_negative,
    non_negative_int,
    one_of,
    positive_int,
    random_seed,
    several,
)
from titans_jax.forecasting.training import evaluate, train
from titans_jax.forecasting.windows import window_starts


@dataclasses.dataclass(frozen=True)
class ForecastingConfig:
    """What is trained.

    Attributes:
      dataset: a name (datasets.py), or a file name ending in .csv.
      models: names, with commas between (recipes.py).
      horizons: rows to predict, with commas between.
      seeds: of everything random, with commas between; the first chooses the candidate.
      epochs: at most, for a quick trial; 0 for the recipe's.
      max_minutes: start no training after so long; 0 for no limit.
    """

    dataset: str = field("", given)
    models: tuple[str, ...] = field(tuple(MODELS), several(one_of(MODELS)))
    horizons: tuple[int, ...] = field(HORIZONS, several(positive_int, distinct=True))
    seeds: tuple[int, ...] = field((0, 1, 2), several(random_seed, distinct=True))
    epochs: int = field(0, non_negative_int)
    max_minutes: float = field(0.0, non_negative)

    def __post_init__(self) -> None:
        check_fields(self)


class Trainer:
    """Trains and tests the models of a data set at one horizon."""

    def __init__(self, data: Dataset, horizon: int, epochs: int = 0):
        """Checks that the windows fit.

        Args:
            data: the data set.
            horizon: rows to predict.
            epochs: at most, where that is fewer than the recipe's; 0 for the recipe's.

        Raises:
            ValueError: the series is too short.
        """
        self.data, self.horizon, self.epochs = data, horizon, epochs
        self.starts = window_starts(data.parts, LOOKBACK, horizon)

    def shortened(self, candidate: Candidate) -> Candidate:
        """The candidate with no more epochs than are allowed."""
        if not self.epochs:
            return candidate
        epochs = min(self.epochs, candidate.training.epochs)
        training = dataclasses.replace(candidate.training, epochs=epochs)
        return candidate._replace(training=training)

    def key(self, candidate: Candidate, seed: int) -> dict[str, Any]:
        """All that decides a training, as JSON values."""
        data = self.data
        season = candidate.season(data)
        arrays = (np.asarray(data.series), np.asarray(data.phase(season)))
        return plain(
            {
                "dataset": data.name,
                "sha256": fingerprint(array.tobytes() for array in arrays),
                "parts": dataclasses.astuple(data.parts),
                "lookback": LOOKBACK,
                "horizon": self.horizon,
                "builder": candidate.builder,
                "fields": candidate.fields,
                "season": season,
                "training": dataclasses.asdict(self.shortened(candidate).training),
                "seed": seed,
            }
        )

    def train(self, candidate: Candidate, seed: int) -> tuple[nnx.Module, dict[str, Any]]:
        """The trained model, and "parameters", "valid", "epoch" (the best) and "epochs"."""
        candidate, data = self.shortened(candidate), self.data
        model = candidate.build(data, self.horizon, nnx.Rngs(seed))
        result = train(
            model,
            candidate.training,
            data.series,
            data.phase(candidate.season(data)),
            self.starts.train,
            self.starts.valid,
            lookback=LOOKBACK,
            horizon=self.horizon,
            seed=seed,
        )
        parameters = sum(int(np.prod(leaf.shape)) for leaf in jax.tree.leaves(nnx.state(model)))
        return result.model, {
            "parameters": parameters,
            "valid": result.errors[result.best]._asdict(),
            "epoch": result.best + 1,
            "epochs": len(result.errors),
        }

    def test(self, candidate: Candidate, model: nnx.Module) -> dict[str, float]:
        """Errors over every test window."""
        data, horizon = self.data, self.horizon
        phase = data.phase(candidate.season(data))
        return evaluate(
            model, data.series, phase, self.starts.test, lookback=LOOKBACK, horizon=horizon
        )._asdict()

    def training(self, name: str, candidate: Candidate, workdir: Path, seed: int) -> Training:
        """One training, to be run or read; of the test, pages show what validation chose."""
        said = candidate.name.replace(" ", "_")
        folder = workdir / self.data.name / name / f"horizon_{self.horizon}" / said / f"seed_{seed}"

        def make() -> dict[str, Any]:
            model, record = self.train(candidate, seed)
            results = {"valid": record["valid"], "test": self.test(candidate, model)}
            return {**record, "results": {SELECTION: sum(record["valid"].values()), **results}}

        return kept(folder, self.key(candidate, seed), make)


def main(config: ForecastingConfig, workdir: Path, folder: Path) -> dict[str, Any]:
    """Runs what is missing and returns the results."""
    data = load_dataset(config.dataset, folder)
    trainers = [Trainer(data, horizon, config.epochs) for horizon in config.horizons]
    deadline = time.monotonic() + 60 * config.max_minutes
    found = {}
    for trainer in trainers:
        trainings = {
            name: {
                candidate.name: functools.partial(trainer.training, name, candidate, workdir)
                for candidate in MODELS[name]
            }
            for name in config.models
        }
        left = max(deadline - time.monotonic(), 1e-3) / 3600 if config.max_minutes else 0.0
        found[str(trainer.horizon)] = compare(trainings, config.seeds, hours=left)
    return {"name": Path(config.dataset).stem, "dataset": config.dataset, "horizons": found}


if __name__ == "__main__":
    command.study(main, REPORT, ForecastingConfig, "time_series", data=True, file=False)
