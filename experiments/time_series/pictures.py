"""Forecasts beside the true series: the memory forecaster and RLinear at the first, middle and last test window.

    python -m experiments.time_series.pictures --dataset=ETTh1 --data_dir=DIR

The windows are fixed, not picked. Both models are trained as in the comparison, each with the candidate that
WORKDIR/DATASET.json, or the file of --results, says validation chose.
"""

import dataclasses
import json
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np

from experiments import command
from experiments.comparison.store import keep, origin
from experiments.time_series.datasets import load_dataset
from experiments.time_series.recipes import LOOKBACK, MODELS, Candidate
from experiments.time_series.report import FORECASTS
from experiments.time_series.run import Trainer
from titans_jax.fields import (
    check_fields,
    field,
    given,
    non_negative_int,
    positive_int,
    random_seed,
    string,
)

DRAWN = ("LMM", "RLinear")


@dataclasses.dataclass(frozen=True)
class PicturesConfig:
    """What is drawn.

    Attributes:
      dataset: as for experiments.time_series.run.
      results: JSON of the comparison, which says what validation chose; by default that of the workdir, if it is there.
      horizon: rows to predict.
      seed: of everything random.
      epochs: at most, for a quick trial; 0 for the recipe's.
    """

    dataset: str = field("", given)
    results: str = field("", string)
    horizon: int = field(96, positive_int)
    seed: int = field(0, random_seed)
    epochs: int = field(0, non_negative_int)

    def __post_init__(self) -> None:
        check_fields(self)


def chosen(path: Path, model: str, horizon: int) -> Candidate:
    """The candidate of a model that validation chose at a horizon; the model's first one where none was.

    Args:
        path: the results JSON, which need not exist.
        model: its name in `MODELS`.
        horizon: rows to predict.
    """
    results = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {"horizons": {}}
    study = results["horizons"].get(str(horizon), {"models": {}})
    best = study["models"].get(model, {"best": None})["best"]
    return next((c for c in MODELS[model] if c.name == best), MODELS[model][0])


def main(config: PicturesConfig, workdir: Path, folder: Path) -> dict[str, Any]:
    """Trains two models, unless that is done, and returns what is drawn."""
    data, name = load_dataset(config.dataset, folder), Path(config.dataset).stem
    trainer = Trainer(data, config.horizon, config.epochs)
    every = trainer.starts.test
    starts = [int(every[i]) for i in (0, len(every) // 2, -1)]
    results = Path(config.results) if config.results else workdir / f"{name}.json"
    records = {}
    for model in DRAWN:
        candidate = chosen(results, model, config.horizon)

        def make(candidate: Candidate = candidate) -> dict[str, Any]:
            trained, record = trainer.train(candidate, config.seed)
            windows = jnp.stack([data.series[s : s + LOOKBACK] for s in starts])
            phase = data.phase(candidate.season(data))[jnp.asarray(starts)]
            forecasts = data.scaler.undo(np.asarray(trained(windows, phase)))
            tested = trainer.test(candidate, trained)
            return {**record, "test": tested, "forecasts": forecasts.tolist()}

        trial = workdir / data.name / f"forecasts_{config.horizon}" / model / f"seed_{config.seed}"
        record = keep(trial, trainer.key(candidate, config.seed), make)
        if record is None:
            raise ValueError(f"{trial}: another process is at it; wait for it")
        records[model] = {**record, "candidate": candidate.name}
    columns = sorted({0, len(data.columns) - 1})
    series = data.scaler.undo(np.asarray(data.series))

    def by_column(values: Any) -> dict[str, list[float]]:
        rows = np.asarray(values)
        return {data.columns[c]: [round(float(v), 4) for v in rows[:, c]] for c in columns}

    drawn = [
        {
            "from": str(data.dates[start + LOOKBACK])[:16].replace("T", " "),
            "true": by_column(series[start : start + LOOKBACK + config.horizon]),
            "forecasts": {m: by_column(r["forecasts"][index]) for m, r in records.items()},
        }
        for index, start in enumerate(starts)
    ]
    return {
        "name": f"forecasts_{name}",
        "dataset": config.dataset,
        "horizon": config.horizon,
        "lookback": LOOKBACK,
        "seed": config.seed,
        "first_rows": starts,
        "columns": [data.columns[c] for c in columns],
        "origin": origin(list(records.values())),
        "models": {m: {n: r[n] for n in ("candidate", "test")} for m, r in records.items()},
        "windows": drawn,
    }


if __name__ == "__main__":
    command.study(main, FORECASTS, PicturesConfig, "time_series", data=True, file=False)
