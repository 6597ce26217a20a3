"""Forecasts beside the true series: the memory forecaster and RLinear at the first, middle and last test window.

    python -m experiments.time_series.pictures --dataset=ETTh1 --data_dir=DIR

The windows are fixed, not picked. Both models are trained as in the comparison, the memory with the candidate that
OUTPUT/DATASET.json says validation chose. Writes OUTPUT/forecasts_DATASET.png, and a JSON of that name with the seed,
the commit and the errors over every test window.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import matplotlib as mpl
import numpy as np

from experiments.comparison.provenance import provenance
from experiments.time_series.datasets import Dataset, load_dataset
from experiments.time_series.recipes import LOOKBACK, MODELS, Candidate
from experiments.time_series.report import RESULTS
from experiments.time_series.run import errors_on_test, train_candidate
from titans_jax.forecasting.windows import window_starts

mpl.use("Agg")
from matplotlib import pyplot as plt

COLOURS = {"LMM": "tab:red", "RLinear": "tab:blue"}


def chosen(path: Path, model: str, horizon: int) -> Candidate:
    """The candidate of a model that was tested at a horizon; the model's first one where none was.

    Args:
        path: the results JSON, which need not exist.
        model: its name in `MODELS`.
        horizon: rows to predict.
    """
    runs = json.loads(path.read_text(encoding="utf-8"))["runs"] if path.exists() else []
    names = {
        r["candidate"]
        for r in runs
        if r["model"] == model and r["horizon"] == horizon and "test" in r
    }
    return next((c for c in MODELS[model] if c.name in names), MODELS[model][0])


def draw(
    data: Dataset, horizon: int, starts: Sequence[int], forecasts: dict[str, np.ndarray], path: Path
) -> None:
    """A row of panels for the first and the last column, a panel for each window.

    Args:
        data: the data set.
        horizon: rows predicted.
        starts: first rows of the windows.
        forecasts: of each model, ``[windows, horizon, C]``, standardised.
        path: of the PNG.
    """
    columns = sorted({0, len(data.columns) - 1})
    figure, axes = plt.subplots(
        len(columns), len(starts), figsize=(4.5 * len(starts), 2.6 * len(columns)), squeeze=False
    )
    series = data.scaler.undo(np.asarray(data.series))
    for row, column in enumerate(columns):
        for panel, start, index in zip(axes[row], starts, range(len(starts)), strict=True):
            end = start + LOOKBACK + horizon
            panel.plot(
                data.dates[start:end],
                series[start:end, column],
                color="black",
                lw=1,
                label="true series",
            )
            for model, values in forecasts.items():
                drawn = data.scaler.undo(values[index])[:, column]
                panel.plot(
                    data.dates[start + LOOKBACK : end],
                    drawn,
                    color=COLOURS[model],
                    lw=1.2,
                    label=model,
                )
            panel.axvline(data.dates[start + LOOKBACK], color="grey", lw=0.8, ls=":")
            panel.set_title(
                f"{data.columns[column]}, from {str(data.dates[start + LOOKBACK])[:16]}", fontsize=9
            )
            panel.tick_params(axis="x", rotation=20, labelsize=7)
    axes[0][0].legend(fontsize=8)
    figure.suptitle(f"{data.name}: {horizon} rows forecast from {LOOKBACK}")
    figure.tight_layout()
    figure.savefig(path, dpi=100)
    plt.close(figure)


def main(arguments: Sequence[str]) -> None:
    """Trains two models and draws."""
    parser = argparse.ArgumentParser(
        "experiments.time_series.pictures", description="Forecasts beside the true series."
    )
    parser.add_argument("--dataset", required=True, help="as for experiments.time_series.run")
    parser.add_argument(
        "--data_dir", default=os.environ.get("TITANS_DATA", "."), help="folder of the CSVs"
    )
    parser.add_argument("--horizon", type=int, default=96)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--epochs", type=int, help="at most, for a quick trial")
    parser.add_argument("--output", type=Path, default=RESULTS, help="folder of the results")
    options = parser.parse_args(arguments)
    horizon, name = options.horizon, Path(options.dataset).stem
    try:
        data = load_dataset(options.dataset, options.data_dir)
        every = window_starts(data.parts, LOOKBACK, horizon).test
    except (FileNotFoundError, ValueError) as error:
        sys.exit(str(error))
    starts = [int(every[i]) for i in (0, len(every) // 2, -1)]
    forecasts: dict[str, np.ndarray] = {}
    content: dict[str, Any] = {"dataset": options.dataset, "horizon": horizon, "first_rows": starts}
    for model in COLOURS:
        candidate = chosen(options.output / f"{name}.json", model, horizon)
        trained, record = train_candidate(data, horizon, candidate, options.seed, options.epochs)
        windows = jnp.stack([data.series[s : s + LOOKBACK] for s in starts])
        phase = data.phase(candidate.season(data))[jnp.asarray(starts)]
        forecasts[model] = np.asarray(trained(windows, phase))
        content[model] = {**record, "test": errors_on_test(data, horizon, candidate, trained)}
    options.output.mkdir(parents=True, exist_ok=True)
    path = options.output / f"forecasts_{name}.png"
    draw(data, horizon, starts, forecasts, path)
    text = json.dumps({**content, **provenance()}, indent=1) + "\n"
    path.with_suffix(".json").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
