"""Does a memory that goes on learning forecast better than one that does not? Measured over the test part.

    python -m experiments.time_series.online --dataset=ETTh1 --data_dir=DIR

The memory forecaster over patches (recipes.py) is trained twice: as in the protocol, on look-backs alone, and with a
memory that has read `CONTEXT` patches before every look-back, as it has in a stream. Then rows arrive one at a time
from the first row of the series on (titans_jax/forecasting/streaming.py), and every test window is forecast once all
of its look-back has arrived, in four modes: the memory learning all the time; learning up to the first test window
and then stopped; started anew in every window, which is the protocol; and never written. Parameters never change
after training. The same command goes on with what is missing.
"""

import dataclasses
import functools
from pathlib import Path
from typing import Any, get_args

from experiments import command
from experiments.comparison.study import Training, compare, kept
from experiments.time_series.datasets import load_dataset
from experiments.time_series.recipes import MODELS
from experiments.time_series.report import ONLINE
from experiments.time_series.run import Trainer
from titans_jax.fields import (
    check_fields,
    field,
    given,
    non_negative_int,
    positive_int,
    random_seed,
    several,
)
from titans_jax.forecasting.streaming import OnlineMode, online_errors

#: Patches of 48 rows that the memory reads before a training window's look-back: 384 rows.
CONTEXT = 8
MODES = get_args(OnlineMode)


@dataclasses.dataclass(frozen=True)
class OnlineConfig:
    """What is trained.

    Attributes:
      dataset: as for experiments.time_series.run.
      horizon: rows to predict.
      seeds: of everything random, with commas between.
      epochs: at most, for a quick trial; 0 for the recipe's.
    """

    dataset: str = field("", given)
    horizon: int = field(96, positive_int)
    seeds: tuple[int, ...] = field((0, 1, 2), several(random_seed, distinct=True))
    epochs: int = field(0, non_negative_int)

    def __post_init__(self) -> None:
        check_fields(self)


def training(trainer: Trainer, context: int, workdir: Path, seed: int) -> Training:
    """One training and its errors in every mode, to be run or read.

    Args:
        trainer: of the data set and the horizon.
        context: patches before a training window's look-back.
        workdir: folder of the trials.
        seed: of the training.
    """
    patches = next(c for c in MODELS["LMM"] if c.name == "patches")
    candidate = patches._replace(training=dataclasses.replace(patches.training, context=context))
    data = trainer.data
    folder = workdir / data.name / f"online_{trainer.horizon}_{context}" / f"seed_{seed}"

    def make() -> dict[str, Any]:
        model, record = trainer.train(candidate, seed)
        phase, starts = data.phase(candidate.season(data)), trainer.starts.test
        errors = {
            mode: online_errors(model, data.series, phase, starts, mode)._asdict()  # type: ignore[arg-type]
            for mode in MODES
        }
        return {**record, "results": errors}

    return kept(folder, {**trainer.key(candidate, seed), "modes": list(MODES)}, make)


def main(config: OnlineConfig, workdir: Path, folder: Path) -> dict[str, Any]:
    """Measures what is missing and returns the results."""
    trainer = Trainer(load_dataset(config.dataset, folder), config.horizon, config.epochs)
    trainings = {
        str(context): {"patches": functools.partial(training, trainer, context, workdir)}
        for context in (0, CONTEXT)
    }
    shared = {"dataset": config.dataset, "horizon": config.horizon, "modes": list(MODES)}
    name = f"online_{Path(config.dataset).stem}"
    return {"name": name, **shared, **compare(trainings, config.seeds)}


if __name__ == "__main__":
    command.study(main, ONLINE, OnlineConfig, "time_series", data=True, file=False)
