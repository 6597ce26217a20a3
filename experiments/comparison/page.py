"""The page of an experiment, made of its results JSON alone: title, command, picture, tables.

A report says what its tables and its picture hold; `write_results` makes the three files of it, `rewrite` the last two
again. Results hold "command" and what `study.compare` returns, once or several times.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from matplotlib.figure import Figure

from experiments.comparison.store import write_json

#: What readers call the models, by their names in results.
TITLES = {
    "lmm": "LMM", "mac": "MAC", "mag": "MAG", "mal": "MAL", "transformer": "Transformer++",
    "transformer_window": "Transformer++, window", "linear_attention": "linear attention", "retnet": "RetNet",
    "gla": "GLA", "mamba2": "Mamba-2", "deltanet": "DeltaNet", "gated_deltanet": "Gated DeltaNet",
    "ttt_linear": "TTT-Linear", "ttt_mlp": "TTT-MLP", "samba": "Samba", "gated_deltanet_h2": "Gated DeltaNet-H2",
    "lmm_no_momentum": "LMM without momentum", "lmm_depth2": "LMM, deep memory", "lmm_layers2": "LMM, two layers",
}  # fmt: skip
#: What readers call the texts, by the names of their files.
TEXTS = {"valid_1661": "a held-out book", "wikitext103_valid": "WikiText-103"}
_SHUT = "_closed"


class Report(NamedTuple):
    """How results become a page.

    Attributes:
      title: of page and picture.
      body: the lines under the picture.
      figure: the picture; None where there is nothing to draw yet.
    """

    title: Callable[[dict[str, Any]], str]
    body: Callable[[dict[str, Any]], list[str]]
    figure: Callable[[dict[str, Any]], Figure | None]


def write_results(results: dict[str, Any], output: Path, report: Report) -> None:
    """Writes OUTPUT.json, OUTPUT.md and OUTPUT.png.

    Args:
      results: with "command".
      output: the path of the three files, without a suffix.
      report: how they become a page.
    """
    output.parent.mkdir(parents=True, exist_ok=True)
    write_json(_file(output, ".json"), results)
    rewrite(output, report)


def rewrite(output: Path, report: Report) -> None:
    """Makes page and picture again from OUTPUT.json."""
    results = json.loads(_file(output, ".json").read_text(encoding="utf-8"))
    _file(output, ".md").write_text(page(results, output.name, report), encoding="utf-8")
    figure = report.figure(results)
    if figure is not None:
        figure.savefig(_file(output, ".png"), dpi=110)


def page(results: dict[str, Any], name: str, report: Report) -> str:
    """The page.

    Args:
      results: of the JSON.
      name: of the files, for the picture.
      report: how results become a page.
    """
    title = report.title(results)
    drawn = report.figure(results) is not None
    picture = [f"![{title}]({name}.png)", ""] if drawn else []
    lines = [f"# {title}", "", "Written by:", "", f"    {results['command']}", "", *picture]
    return "\n".join([*lines, *report.body(results)]).rstrip() + "\n"


def _file(output: Path, suffix: str) -> Path:
    """One of the three files: the name may have dots of its own."""
    return output.with_name(output.name + suffix)


def title_of(model: str) -> str:
    """What readers call a model; one whose memory begins closed is the same but for that."""
    plain = TITLES.get(model.removesuffix(_SHUT), model.removesuffix(_SHUT))
    return f"{plain}, writes start near zero" if model.endswith(_SHUT) else plain


def text_of(name: str) -> str:
    """What readers call a text."""
    return TEXTS.get(name, name)


def judged(model: Mapping[str, Any]) -> list[dict[str, Any]]:
    """What was judged of each seed at the best candidate; those that diverged are left out."""
    return [results for results in model["results"] if results is not None]


def done(study: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """The models of a study with at least one judgement."""
    return {name: model for name, model in study["models"].items() if judged(model)}


def number(model: Mapping[str, Any], path: Sequence[str]) -> tuple[float, float | None]:
    """Mean and sample deviation of a number of the judgements; no deviation with one seed.

    Args:
      model: one of `done`.
      path: names that lead to the number.
    """
    values: list[Any] = judged(model)
    for name in path:
        values = [value[name] for value in values]
    return float(np.mean(values)), float(np.std(values, ddof=1)) if len(values) > 1 else None


def entry(
    model: Mapping[str, Any], path: Sequence[str], scale: float = 1.0, digits: int = 3
) -> str:
    """One cell: "mean ± deviation" of a number of the judgements.

    Args:
      model: a study's entry of one model.
      path: names that lead to the number.
      scale: factor on it.
      digits: after the point.
    """
    if not judged(model):
        return "diverged"
    mean, std = number(model, path)
    text = f"{scale * mean:.{digits}f}"
    return text if std is None else f"{text} ± {scale * std:.{digits}f}"


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """The lines of a markdown table."""
    lines = [header, ["---"] * len(header), *rows]
    return ["| " + " | ".join(line) + " |" for line in lines]


def training_lines(studies: Sequence[Mapping[str, Any]]) -> list[str]:
    """Lines that say how language models of one or several studies were trained, and where."""
    trained = [study for study in studies if study["models"]]
    if not trained:
        return ["No model's sweep is finished yet."]
    config = trained[0]["config"]
    sizes = [m["parameters"] for study in trained for m in study["models"].values()]
    rates = ", ".join(f"{rate:g}" for rate in config["learning_rates"])
    lines = [
        f"{span(sizes)} parameters; {config['steps']:,} steps; AdamW; every model at the learning rates {rates} with "
        f"seed {config['seeds'][0]}, then at its best rate with seeds {', '.join(map(str, config['seeds']))}; mean ± "
        "sample deviation over the seeds.",
        *origin_lines([study["origin"] for study in studies]),
    ]
    if not all(study["complete"] for study in studies):
        lines.append("**Not complete**: trials are missing; the same command continues.")
    return lines


def span(sizes: Sequence[int]) -> str:
    """Smallest and largest of some sizes, once if they are one."""
    low, high = min(sizes), max(sizes)
    return f"{low:,}" if low == high else f"{low:,} to {high:,}"


def origin_lines(origins: Sequence[Mapping[str, Any]]) -> list[str]:
    """Machine, versions, time and commits of what stands on a page."""

    def every(name: str) -> list[str]:
        return sorted({value for one in origins for value in one[name]})

    times = []
    for name, unit in (("seconds", "hours"), ("cpu_seconds", "CPU-hours")):
        spent = [one[name] for one in origins]
        if None not in spent:  # the oldest results have only one of them
            times.append(f"{sum(spent) / 3600:.2f} {unit}")
    trials = sum(one["trials"] for one in origins)
    flax = f", flax {', '.join(every('flax'))}"
    lines = [
        f"Machine: {', '.join(every('machines'))}; jax {', '.join(every('jax'))}{flax}; {', '.join(times)} in "
        f"{trials:,} trials; commit {', '.join(commit[:12] for commit in every('commits'))}."
    ]
    if every("errors"):
        lines.append(f"**Not from a clean checkout** ({'; '.join(every('errors'))}).")
    return lines


def sweep_table(studies: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """A table of the sweeps: what every candidate gave, the best in bold.

    Args:
      studies: by what tells them apart, such as a task.
    """
    rows = []
    for title, study in studies.items():
        for name, model in study["models"].items():
            cells = [
                "diverged" if v is None else f"**{v:.4f}**" if one == model["best"] else f"{v:.4f}"
                for one, v in model["sweep"].items()
            ]
            rows.append([title, title_of(name), f"{model['parameters']:,}", *cells])
    if not rows:
        return []
    some = next(m for study in studies.values() for m in study["models"].values())
    return table(["task", "model", "parameters", *some["sweep"]], rows)
