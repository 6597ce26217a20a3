"""The pages and the pictures of forecasting: of a data set, of a memory that learns on, and of all data sets.

    python -m experiments.time_series.report --output=FOLDER

writes FOLDER/summary.md, the table of all data sets whose results JSON is in the folder.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from absl import flags
from matplotlib.figure import Figure

from experiments import command
from experiments.comparison import page, picture

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


OURS = ("LMM", "MAG", "MAC")
COLOURS = {"LMM": "C1", "RLinear": "C0"}
MODES = {
    "learning": "learning all the time", "stopped": "stopped where the test begins", "window": "anew in every window",
    "frozen": "never written",
}  # fmt: skip


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


def errors_of(model: Mapping[str, Any], *path: str) -> list[tuple[float, float]]:
    """(MSE, MAE) of every seed."""
    found: list[Any] = page.judged(model)
    for name in path:
        found = [one[name] for one in found]
    return [(one["mse"], one["mae"]) for one in found]


def _mse(model: Mapping[str, Any], name: str) -> tuple[float, float | None]:
    return page.number(model, (name, "mse"))


def means_over_horizons(
    results: Mapping[str, Any], model: str, horizons: Sequence[str]
) -> list[tuple[float, float]]:
    """(MSE, MAE) of every seed that was tested at every horizon, meaned over the horizons."""
    by_horizon = []
    for horizon in horizons:
        found = results["horizons"].get(horizon, {"models": {}})["models"].get(model)
        tested = zip(found["seeds"], errors_of(found, "test"), strict=True) if found else ()
        by_horizon.append(dict(tested))
    seeds = sorted(set.intersection(*(set(found) for found in by_horizon)))
    each = ([found[seed] for found in by_horizon] for seed in seeds)
    return [
        (float(np.mean([mse for mse, _ in one])), float(np.mean([mae for _, mae in one])))
        for one in each
    ]


def _models(results: Mapping[str, Any]) -> list[str]:
    return list(dict.fromkeys(n for study in results["horizons"].values() for n in study["models"]))


def body(results: dict[str, Any]) -> list[str]:
    """A row for each model, a column for each horizon."""
    horizons = list(results["horizons"])
    rows = []
    for model in _models(results):
        cells = []
        for study in results["horizons"].values():
            found = study["models"].get(model)
            tested = errors_of(found, "test") if found else []
            cells.append(cell(tested) + (f" ({found['best']})" if tested and found else ""))
        paper = PAPER.get(results["dataset"], {}).get(model)
        if set(horizons) != set(map(str, HORIZONS)):  # the paper gives the mean of these alone
            paper = None
        mean = cell(means_over_horizons(results, model, horizons))
        rows.append([model, *cells, mean, cell([paper] if paper else [])])
    lines = [
        "Test MSE / MAE of standardised values, look-back 96, every test window; mean ± standard deviation over seeds."
        " Candidates were chosen on validation with the first seed; in brackets the choice. Paper: Table 3, means over"
        " the four horizons.",
        "",
        *page.table(["model", *horizons, "mean", "paper"], rows),
        "",
        *page.origin_lines([study["origin"] for study in results["horizons"].values()]),
    ]
    if not all(study["complete"] for study in results["horizons"].values()):
        lines.append("**Not complete**: trainings are missing; the same command continues.")
    return lines


def figure(results: dict[str, Any]) -> Figure | None:
    """Mean square error of every model, a panel for each horizon."""
    studies = {h: page.done(study) for h, study in results["horizons"].items() if page.done(study)}
    if not studies:
        return None
    names = _models(results)[::-1]
    title = f"Forecasting {results['dataset']}"
    size = (2.7, 0.3 * len(names) + 1.1)
    drawn, axes = picture.panels(1, len(studies), title, size=size, sharey=True)
    for panel, (horizon, models) in zip(axes[0], studies.items(), strict=True):
        values = {name: _mse(model, "test") for name, model in models.items()}
        picture.dots(panel, names, values, {n: "C0" if n in OURS else "0.4" for n in names})
        panel.set(xlabel="test MSE", title=f"{horizon} rows ahead")
    return drawn


REPORT = page.Report(lambda results: f"Forecasting {results['dataset']}", body, figure)


def _read_before(context: str) -> str:
    return f"has read {context} patches before" if context != "0" else "look-back alone"


def online_body(results: dict[str, Any]) -> list[str]:
    """A row for each training, a column for each way to use it."""
    rows = [
        [_read_before(context), *(cell(errors_of(model, mode)) for mode in results["modes"])]
        for context, model in results["models"].items()
    ]
    return [
        f"Test MSE / MAE of standardised values, every test window, horizon {results['horizon']}, mean ± standard "
        "deviation over seeds. The memory in use:",
        "",
        *page.table(["memory in training", *(MODES[mode] for mode in results["modes"])], rows),
        "",
        *page.origin_lines([results["origin"]]),
    ]


def online_figure(results: dict[str, Any]) -> Figure | None:
    """Mean square error of every way to use a memory."""
    models = page.done(results)
    if not models:
        return None
    drawn, axes = picture.panels(1, 1, _online_title(results), size=(5.5, 2.6))
    panel, modes = axes[0][0], results["modes"][::-1]
    for number, (context, model) in enumerate(models.items()):
        for place, mode in enumerate(modes):
            mean, spread = _mse(model, mode)
            label = f"training: {_read_before(context)}" if not place else None
            panel.errorbar(mean, place + 0.15 * number, xerr=spread or 0.0, fmt="o", capsize=2,
                           color=f"C{number}", label=label)  # fmt: skip
    panel.set_yticks(range(len(modes)), [MODES[mode] for mode in modes])
    panel.grid(alpha=0.3)
    panel.set_xlabel("test MSE, bars: one deviation over seeds")
    picture.legend(drawn, panel)
    return drawn


def _online_title(results: Mapping[str, Any]) -> str:
    return f"A memory that learns on: {results['dataset']}, {results['horizon']} rows ahead"


ONLINE = page.Report(_online_title, online_body, online_figure)


def forecast_body(results: dict[str, Any]) -> list[str]:
    """Errors over every test window of the models that are drawn."""
    rows = [
        [name, one["candidate"], f"{one['test']['mse']:.3f} / {one['test']['mae']:.3f}"]
        for name, one in results["models"].items()
    ]
    return [
        f"The first, the middle and the last test window, seed {results['seed']}; MSE / MAE over every test window:",
        "",
        *page.table(["model", "candidate", "test"], rows),
        "",
        *page.origin_lines([results["origin"]]),
    ]


def forecast_figure(results: dict[str, Any]) -> Figure:
    """A row of panels for each column of the series, a panel for each window."""
    windows, columns = results["windows"], results["columns"]
    size = (4.2, 2.6)
    drawn, axes = picture.panels(len(columns), len(windows), _forecast_title(results), size=size)
    for row, column in zip(axes, columns, strict=True):
        for panel, window in zip(row, windows, strict=True):
            true = window["true"][column]
            seen = len(true) - results["horizon"]
            panel.plot(
                range(-seen, len(true) - seen), true, color="black", lw=1, label="true series"
            )
            for model, forecasts in window["forecasts"].items():
                colour = COLOURS[model]
                panel.plot(forecasts[column], color=colour, lw=1.2, label=model)
            panel.axvline(0, color="grey", lw=0.8, ls=":")
            panel.set_title(f"{column}, from {window['from']}", fontsize=9)
            panel.set_xlabel("rows from the first forecast", fontsize="small")
    picture.legend(drawn, axes[0][0])
    return drawn


def _forecast_title(results: Mapping[str, Any]) -> str:
    return (
        f"Forecasts of {results['dataset']}: {results['horizon']} rows from {results['lookback']}"
    )


FORECASTS = page.Report(_forecast_title, forecast_body, forecast_figure)


def summary(every: Sequence[Mapping[str, Any]]) -> str:
    """One table of all data sets: means over the four horizons, here and in the paper.

    Args:
        every: results of the data sets.
    """
    names = [results["dataset"] for results in every]
    header = ["MSE / MAE, mean over horizons"]
    header += [one for name in names for one in (f"{name} here", f"{name} paper")]
    rows = []
    for model in dict.fromkeys(model for results in every for model in _models(results)):
        cells = []
        for results in every:
            errors = means_over_horizons(results, model, [str(h) for h in HORIZONS])
            mean = [tuple(np.mean(errors, axis=0))] if errors else []
            seeds = f" ({len(errors)})" if errors else ""
            paper = PAPER.get(results["dataset"], {}).get(model)
            cells += [cell(mean) + seeds, cell([paper] if paper else [])]
        rows.append([model, *cells])
    lines = [
        "# Forecasting: all data sets",
        "",
        *page.table(header, rows),
        "",
        "In brackets: seeds.",
    ]
    return "\n".join(lines) + "\n"


def write_summary(folder: Path) -> None:
    """Writes summary.md."""
    paths = [folder / f"{name}.json" for name in PAPER]
    every = [json.loads(p.read_text(encoding="utf-8")) for p in paths if p.is_file()]
    (folder / "summary.md").write_text(summary(every), encoding="utf-8")


if __name__ == "__main__":
    command.run(
        lambda: write_summary(Path(flags.FLAGS.output)),
        lambda: flags.DEFINE_string("output", "runs/time_series", "folder of the results JSONs"),
    )
