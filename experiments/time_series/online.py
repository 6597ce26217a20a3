"""Does a memory that goes on learning forecast better than one that does not? Measured over the test part.

    python -m experiments.time_series.online --dataset=ETTh1 --data_dir=DIR

The memory forecaster over patches (recipes.py) is trained twice: as in the protocol, on look-backs alone, and with a
memory that has read `CONTEXT` patches before every look-back, as it has in a stream. Then rows arrive one at a time
from the first row of the series on (titans_jax/forecasting/streaming.py), and every test window is forecast once all
of its look-back has arrived, in four modes: the memory learning all the time; learning up to the first test window
and then stopped; started anew in every window, which is the protocol; and never written. Parameters never change
after training. OUTPUT/online_DATASET.json is written after every training, and the same command goes on.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, get_args

import numpy as np

from experiments.comparison.provenance import provenance
from experiments.time_series.datasets import Dataset, load_dataset
from experiments.time_series.recipes import LOOKBACK, MODELS
from experiments.time_series.report import RESULTS, cell
from experiments.time_series.run import train_candidate
from titans_jax.forecasting.streaming import OnlineMode, online_errors
from titans_jax.forecasting.windows import window_starts

#: Patches of 48 rows that the memory reads before a training window's look-back: 384 rows.
CONTEXT = 8
MODES = get_args(OnlineMode)


def measure(
    data: Dataset, horizon: int, context: int, seed: int, epochs: int | None
) -> dict[str, Any]:
    """Trains one forecaster and measures it in every mode.

    Args:
        data: the data set.
        horizon: rows to predict.
        context: patches before a training window's look-back.
        seed: of the training.
        epochs: at most, where that is fewer than the recipe's.
    """
    patches = next(c for c in MODELS["LMM"] if c.name == "patches")
    candidate = patches._replace(training=dataclasses.replace(patches.training, context=context))
    model, record = train_candidate(data, horizon, candidate, seed, epochs)
    starts = window_starts(data.parts, LOOKBACK, horizon).test
    phase = data.phase(data.day)
    errors = {
        mode: online_errors(model, data.series, phase, starts, mode)._asdict()  # type: ignore[arg-type]
        for mode in MODES
    }
    return {**record, "context": context, "test": errors, **provenance()}


def markdown(content: dict[str, Any]) -> str:
    """The table: a row for each training and mode.

    Args:
        content: of the results JSON.
    """
    runs = content["runs"]
    seeds = sorted({run["seed"] for run in runs})
    lines = [
        f"# {content['dataset']}, online, horizon {content['horizon']}",
        "",
        f"    {content['command']}",
        "",
        f"Test MSE / MAE of standardised values, every test window, {len(seeds)} seed(s), mean ± standard deviation.",
        "",
        "| memory in training | " + " | ".join(MODES) + " |",
        "|---|" + "---|" * len(MODES),
    ]
    for context in sorted({run["context"] for run in runs}):
        chosen = [run for run in runs if run["context"] == context]
        cells = [
            cell([(run["test"][mode]["mse"], run["test"][mode]["mae"]) for run in chosen])
            for mode in MODES
        ]
        said = f"has read {context} patches before" if context else "look-back alone"
        lines.append(f"| {said} | " + " | ".join(cells) + " |")
    machines = ", ".join(sorted({run["machine"] for run in runs}))
    commits = ", ".join(sorted({run["commit"][:10] for run in runs}))
    return "\n".join([*lines, "", f"Machine: {machines}. Commits: {commits}."]) + "\n"


def main(arguments: Sequence[str]) -> None:
    """Measures what is missing."""
    parser = argparse.ArgumentParser(
        "experiments.time_series.online", description="A memory that learns on, and one that not."
    )
    parser.add_argument("--dataset", required=True, help="as for experiments.time_series.run")
    parser.add_argument(
        "--data_dir", default=os.environ.get("TITANS_DATA", "."), help="folder of the CSVs"
    )
    parser.add_argument("--horizon", type=int, default=96)
    parser.add_argument("--seeds", default="0,1,2", help="with commas between")
    parser.add_argument("--epochs", type=int, help="at most, for a quick trial")
    parser.add_argument("--output", type=Path, default=RESULTS, help="folder of the results")
    options = parser.parse_args(arguments)
    try:
        data = load_dataset(options.dataset, options.data_dir)
        window_starts(data.parts, LOOKBACK, options.horizon)
    except (FileNotFoundError, ValueError) as error:
        sys.exit(str(error))
    path = options.output / f"online_{Path(options.dataset).stem}.json"
    runs = json.loads(path.read_text(encoding="utf-8"))["runs"] if path.exists() else []
    for seed in map(int, options.seeds.split(",")):
        for context in (0, CONTEXT):
            if any(run["seed"] == seed and run["context"] == context for run in runs):
                continue
            runs.append(measure(data, options.horizon, context, seed, options.epochs))
            said = [
                "--data_dir=DIR" if a.startswith("--data_dir=") else a
                for a in arguments
                if not a.startswith("--output=")
            ]
            content = {
                "dataset": options.dataset,
                "horizon": options.horizon,
                "command": " ".join(["python -m experiments.time_series.online", *said]),
                "runs": runs,
            }
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
            path.with_suffix(".md").write_text(markdown(content), encoding="utf-8")
            shown = {
                mode: round(float(np.sum([*e.values()])), 4) for mode, e in runs[-1]["test"].items()
            }
            print(f"{data.name} seed {seed} context {context}: MSE + MAE {shown}", flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
