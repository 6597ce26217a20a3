"""Tables and pictures of studies, made from the results JSON alone."""

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from experiments.comparison.trial import write_json

#: A results JSON to the page, and to the picture at a path.
Markdown = Callable[[dict[str, Any]], str]
Plot = Callable[[dict[str, Any], Path], None]


def write_results(results: dict[str, Any], output: Path, markdown: Markdown, plot: Plot) -> None:
    """Writes OUTPUT.json, OUTPUT.md and OUTPUT.png.

    Args:
      results: of one or several studies, with "command".
      output: the path of the three files, without a suffix.
      markdown: makes the page.
      plot: draws the picture.
    """
    output.parent.mkdir(parents=True, exist_ok=True)
    write_json(_file(output, ".json"), results)
    rewrite(output, markdown, plot)


def rewrite(output: Path, markdown: Markdown, plot: Plot) -> None:
    """Makes page and picture again from OUTPUT.json."""
    results = json.loads(_file(output, ".json").read_text(encoding="utf-8"))
    _file(output, ".md").write_text(markdown(results), encoding="utf-8")
    plot(results, _file(output, ".png"))


def _file(output: Path, suffix: str) -> Path:
    """One of the three files: the name may have dots of its own."""
    return output.with_name(output.name + suffix)


def entry(
    model: Mapping[str, Any], path: Sequence[str], scale: float = 1.0, digits: int = 3
) -> str:
    """One cell: "mean ± deviation" of a number of the judgement.

    Args:
      model: a study's entry of one model.
      path: names that lead to the number.
      scale: factor on it.
      digits: after the point.
    """
    if model["mean"] is None:
        return "diverged"
    mean, std = number(model, path)
    text = f"{scale * mean:.{digits}f}"
    return text if std is None else f"{text} ± {scale * std:.{digits}f}"


def number(model: Mapping[str, Any], path: Sequence[str]) -> tuple[float, float | None]:
    """Mean and deviation of a number of the judgement; no deviation with one seed.

    Args:
      model: a study's entry of one model, with a mean.
      path: names that lead to the number.
    """
    mean, std = model["mean"], model["std"]
    for name in path:
        mean, std = mean[name], None if std is None else std[name]
    return mean, std


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """The lines of a markdown table."""
    lines = [header, ["---"] * len(header), *rows]
    return ["| " + " | ".join(line) + " |" for line in lines]


def origin(results: Mapping[str, Any], studies: Sequence[Mapping[str, Any]]) -> list[str]:
    """Lines that say how results came about: command, scale, machine, commit, versions, what is missing.

    Args:
      results: with "command".
      studies: those that it holds.
    """
    records = [
        trial for s in studies for model in s["models"].values() for trial in model["trials"]
    ]
    if not records:
        return ["No model's sweep is finished yet."]
    config = studies[0]["config"]
    sweep = ", ".join(f"{rate:g}" for rate in config["learning_rates"])
    versions = records[0]["versions"]
    sizes = sorted({model["parameters"] for s in studies for model in s["models"].values()})
    size = f"{sizes[0]:,}" if len(sizes) == 1 else f"{sizes[0]:,} to {sizes[-1]:,}"
    lines = [
        "Written by:",
        "",
        f"    {results['command']}",
        "",
        f"{size} parameters; {config['steps']:,} steps; AdamW; every model at the learning rates "
        f"{sweep} with seed {config['seeds'][0]}, then at its best "
        f"rate with seeds {', '.join(map(str, config['seeds']))}; mean ± sample deviation over the seeds.",
        f"Machine: {', '.join(sorted({r['machine'] for r in records}))}; jax {versions['jax']}, "
        f"flax {versions['flax']}; {sum(s['seconds'] for s in studies) / 3600:.2f} hours of training and testing in "
        f"{len(records)} trials; commit {', '.join(sorted({r['commit'][:12] for r in records}))}.",
    ]
    errors = sorted({r["error"] for r in records if "error" in r})
    if errors:
        lines.append(f"**Not from a clean checkout** ({'; '.join(errors)}).")
    if not all(study["complete"] for study in studies):
        lines.append("**Not complete**: trials are missing; the same command continues.")
    return lines


def rates(studies: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """A table of the sweeps: what each rate gave, the best in bold."""
    rows = []
    for title, study in studies.items():
        for name, model in study["models"].items():
            best = f"{model['learning_rate']:g}" if model["learning_rate"] is not None else ""
            cells = [
                "diverged" if v is None else f"**{v:.4f}**" if rate == best else f"{v:.4f}"
                for rate, v in model["sweep"].items()
            ]
            rows.append([title, name, f"{model['parameters']:,}", *cells])
    if not rows:
        return []
    study = next(iter(studies.values()))
    header = ["task", "model", "parameters", *(f"{r:g}" for r in study["config"]["learning_rates"])]
    return table(header, rows)
