"""Tables of the forecasting results, made from the results JSON alone.

    python -m experiments.time_series.report

writes summary.md, the table of all data sets whose JSON is in the folder of results (--output).
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

RESULTS = Path(__file__).resolve().parents[1] / "results" / "time_series"
HORIZONS = (96, 192, 336, 720)
#: Means over the four horizons that the paper's Table 3 gives (look-back 96): (MSE, MAE).
PAPER = {
    "ETTm1": {"LMM": (0.358, 0.387), "iTransformer-style": (0.407, 0.410), "PatchTST-style": (0.387, 0.400),
              "RLinear": (0.414, 0.407), "DLinear": (0.403, 0.407)},
    "ETTh1": {"LMM": (0.420, 0.421), "iTransformer-style": (0.454, 0.447), "PatchTST-style": (0.469, 0.454),
              "RLinear": (0.446, 0.434), "DLinear": (0.456, 0.452)},
    "Weather": {"LMM": (0.231, 0.265), "iTransformer-style": (0.258, 0.278), "PatchTST-style": (0.259, 0.281),
                "RLinear": (0.272, 0.291), "DLinear": (0.265, 0.317)},
    "ETTm2": {"LMM": (0.261, 0.309)},
    "ETTh2": {"LMM": (0.336, 0.382)},
    "ECL": {"LMM": (0.162, 0.261)},
    "Traffic": {"LMM": (0.415, 0.289)},
}  # fmt: skip


def tested(content: dict[str, Any], model: str, horizon: int) -> list[dict[str, Any]]:
    """The tested trainings of a model at a horizon, in order of seeds."""
    runs = [
        run
        for run in content["runs"]
        if run["model"] == model and run["horizon"] == horizon and "test" in run
    ]
    return sorted(runs, key=lambda run: run["seed"])


def cell(errors: Sequence[tuple[float, float]]) -> str:
    """ "MSE ± deviation / MAE ± deviation" over seeds; no deviation of a single one."""
    if not errors:
        return "-"
    values = np.asarray(errors)
    means = values.mean(axis=0)
    if len(values) == 1:
        return " / ".join(f"{mean:.3f}" for mean in means)
    return " / ".join(
        f"{mean:.3f} ± {std:.3f}"
        for mean, std in zip(means, values.std(axis=0, ddof=1), strict=True)
    )


def means_over_horizons(
    content: dict[str, Any], model: str, horizons: Sequence[int]
) -> list[tuple[float, float]]:
    """(MSE, MAE) of every seed that was tested at every horizon, meaned over the horizons."""
    by_horizon = [{run["seed"]: run["test"] for run in tested(content, model, h)} for h in horizons]
    seeds = sorted(set.intersection(*(set(found) for found in by_horizon)))
    return [
        (
            float(np.mean([found[seed]["mse"] for found in by_horizon])),
            float(np.mean([found[seed]["mae"] for found in by_horizon])),
        )
        for seed in seeds
    ]


def markdown(content: dict[str, Any]) -> str:
    """The page of a data set.

    Args:
        content: of the results JSON.
    """
    runs = content["runs"]
    models = list(dict.fromkeys(run["model"] for run in runs))
    horizons = sorted({run["horizon"] for run in runs})
    commits = sorted({run["commit"][:10] for run in runs})
    lines = [
        f"# {content['dataset']}",
        "",
        f"    {content['command']}",
        "",
        "Test MSE / MAE of standardised values, look-back 96, every test window; mean ± standard deviation over seeds."
        " Candidates were chosen on validation with the first seed; in brackets the choice. Paper: Table 3, means over"
        " the four horizons.",
        "",
        "| model | " + " | ".join(map(str, horizons)) + " | mean | paper |",
        "|---|" + "---|" * (len(horizons) + 2),
    ]
    for model in models:
        cells = []
        for horizon in horizons:
            found = tested(content, model, horizon)
            errors = [(run["test"]["mse"], run["test"]["mae"]) for run in found]
            choice = f" ({found[0]['candidate']})" if found else ""
            cells.append(cell(errors) + choice)
        paper = PAPER.get(content["dataset"], {}).get(model)
        if set(horizons) != set(HORIZONS):  # the paper gives the mean of these alone
            paper = None
        given = "-" if paper is None else f"{paper[0]:.3f} / {paper[1]:.3f}"
        mean = cell(means_over_horizons(content, model, horizons))
        lines.append(f"| {model} | " + " | ".join(cells) + f" | {mean} | {given} |")
    hours = sum(run["cpu_seconds"] for run in runs) / 3600
    lines += [
        "",
        f"{len(runs)} trainings, {hours:.2f} CPU-hours, candidates that were not chosen included."
        f" Machine: {', '.join(sorted({run['machine'] for run in runs}))}. Commits: {', '.join(commits)}.",
    ]
    return "\n".join(lines) + "\n"


def summary(contents: Sequence[dict[str, Any]]) -> str:
    """One table of all data sets: means over the four horizons, here and in the paper.

    Args:
        contents: of the results JSONs.
    """
    names = [content["dataset"] for content in contents]
    models = list(dict.fromkeys(run["model"] for content in contents for run in content["runs"]))
    lines = [
        "| MSE / MAE, mean over horizons | "
        + " | ".join(f"{n} here | {n} paper" for n in names)
        + " |",
        "|---|" + "---|" * (2 * len(names)),
    ]
    for model in models:
        cells = []
        for content in contents:
            errors = means_over_horizons(content, model, HORIZONS)
            mean = [] if not errors else [tuple(np.mean(errors, axis=0))]
            seeds = f" ({len(errors)})" if errors else ""
            paper = PAPER.get(content["dataset"], {}).get(model)
            cells += [cell(mean) + seeds, "-" if paper is None else cell([paper])]
        lines.append(f"| {model} | " + " | ".join(cells) + " |")
    return "\n".join([*lines, "", "In brackets: seeds."]) + "\n"


def main(arguments: Sequence[str]) -> None:
    """Writes summary.md."""
    parser = argparse.ArgumentParser(
        "experiments.time_series.report", description="One table of all data sets."
    )
    parser.add_argument("--output", type=Path, default=RESULTS, help="folder of the results")
    folder = parser.parse_args(arguments).output
    paths = [folder / f"{name}.json" for name in PAPER]
    contents = [json.loads(p.read_text(encoding="utf-8")) for p in paths if p.is_file()]
    (folder / "summary.md").write_text(summary(contents), encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
