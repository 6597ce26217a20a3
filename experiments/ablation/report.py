"""The page and the picture of the ablation."""

from collections.abc import Mapping
from typing import Any

from matplotlib.figure import Figure

from experiments.ablation.cases import COMPONENTS
from experiments.comparison import page, picture
from experiments.needle_in_a_haystack.report import NEEDLES

#: The paper's Table 5: perplexity and long-context accuracy.
PAPER = {
    "base": (27.01, 92.68),
    "mac": (26.67, 97.95),
    "mag": (25.70, 96.70),
    "mal": (25.91, 96.91),
    "linear memory": (28.49, 85.34),
    "no convolution": (28.73, 90.28),
    "no momentum": (28.98, 87.12),
    "no forgetting": (29.04, 85.60),
    "no persistent memory": (27.63, 92.49),
}


TITLE = "Ablation: the memory without its components"


def body(results: dict[str, Any]) -> list[str]:
    """One row a case, with its difference to the base."""
    text, needles, streams = results["text"], results["needles"], results["streams"]
    lines = [*page.training_lines([study for study in (text, needles, streams) if study]), ""]
    models, found, read = page.done(text), needles["models"], _read(streams)
    if "base" not in models:
        return [*lines, "The base is not there yet."]
    tests = list(models["base"]["results"][0]["bits_per_byte"])
    task, study = needles["task"], needles["config"]
    ends = (task["test_lengths"][0], task["test_lengths"][-1])
    asked = [(name, str(length)) for name in task["tasks"] for length in ends]
    kinds = " and ".join(f"a {NEEDLES[name]}" for name in task["tasks"])
    lines += [
        f"Bits per byte of held-out text in windows of {text['task']['length']}, difference to the base in brackets. "
        f"Needles found ({kinds}), in per cent of {task['test_samples']}, by tokens of the prompt: "
        f"models trained for {study['steps']} steps at {', '.join(map(str, task['train_lengths']))} tokens and the "
        f"rate {', '.join(f'{rate:g}' for rate in study['learning_rates'])} with the seeds "
        f"{', '.join(map(str, study['seeds']))} (experiments/needle_in_a_haystack).",
        *_stream_lines(streams),
        "",
    ]
    places = _places(streams)
    header = [
        "case",
        *(f"{page.text_of(t)}, bits/byte" for t in tests),
        *(f"{NEEDLES[name]} at {length}" for name, length in asked),
        *(f"stream to {place}, bits/byte" for place in places),
        "paper: ppl",
        "paper: long context",
    ]
    rows = []
    for name in dict.fromkeys([*text["models"], *found, *read]):
        row = [page.title_of(name), *(_bits(models, name, test) for test in tests)]
        row += [
            page.entry(found[name], ("accuracy", *one), 100, 0) if name in found else ""
            for one in asked
        ]
        row += [page.entry(read[name], ("bits", place)) if name in read else "" for place in places]
        row += [f"{v:.2f}" for v in PAPER[name]] if name in PAPER else ["", ""]
        rows.append(row)
    lines += [*page.table(header, rows), "", *_verdict(results, tests[0])]
    lines += [
        "Selection by rate (bits per byte of held-out ends of the books; nats of a needle's value):",
        "",
    ]
    return [*lines, *page.sweep_table({"text": text}), "", *page.sweep_table({"needles": needles})]


def _read(streams: dict[str, Any] | None) -> dict[str, Any]:
    """The models that read streams."""
    return streams["models"] if streams else {}


def _places(streams: dict[str, Any] | None) -> list[str]:
    """An early and the last position of the streams."""
    if not streams:
        return []
    tokens = streams["task"]["tokens"]
    return [str(place) for place in dict.fromkeys((min(65_536, tokens), tokens))]


def _stream_lines(streams: dict[str, Any] | None) -> list[str]:
    if not streams:
        return []
    task, study = streams["task"], streams["config"]
    return [
        "",
        f"Streams: models trained for {study['steps']} steps of {task['batch_size']} x {task['length']} tokens with "
        f"the memory carried on, at the rate {study['learning_rates'][0]:g} with the seeds "
        f"{', '.join(map(str, study['seeds']))}; then they read {task['tokens']:,} tokens of held-out text as one "
        "stream. Bits per byte from half of the position to it.",
    ]


def _bits(models: dict[str, Any], name: str, test: str) -> str:
    if name not in models:
        return "diverged"
    path = ("bits_per_byte", test)
    cell = page.entry(models[name], path, digits=4)
    difference = _difference(models, name, path)
    return cell if name == "base" or difference is None else f"{cell} ({difference:+.4f})"


def _difference(models: Mapping[str, Any], name: str, path: tuple[str, ...]) -> float | None:
    """A case's number minus the base's; None where one of them is missing."""
    if not {name, "base"} <= set(models):
        return None
    return page.number(models[name], path)[0] - page.number(models["base"], path)[0]


def _verdict(results: dict[str, Any], test: str) -> list[str]:
    """Which of the paper's five components are worth something here, on each measure."""
    text, needles, streams = results["text"], results["needles"], results["streams"]
    task, lines = needles["task"], []
    length = str(task["test_lengths"][-1])
    measures: list[tuple[dict[str, Any], tuple[str, ...], str, int]]
    measures = [(page.done(text), ("bits_per_byte", test), "{:+.4f} bits per byte", 1)]
    for kind in task["tasks"]:
        said = f"{{:+.0f}} points of a {NEEDLES[kind]} at {length}"
        measures.append((page.done(needles), ("accuracy", kind, length), said, 100))
    for place in _places(streams):
        said = f"{{:+.3f}} bits per byte of the stream to {place}"
        measures.append((page.done(streams), ("bits", place), said, 1))
    for name in COMPONENTS:
        parts = []
        for models, path, said, scale in measures:
            difference = _difference(models, name, path)
            if difference is not None:
                parts.append(said.format(scale * difference))
        if parts:
            lines.append(f"* {name}: {', '.join(parts)}")
    return ["The paper's five components, each left out:", "", *lines, ""] if lines else []


def figure(results: dict[str, Any]) -> Figure | None:
    """Bits per byte, needles at the longest distance, and the end of the stream, case by case; below, the streams."""
    text, needles, streams = results["text"], results["needles"], results["streams"]
    models, found, read = page.done(text), page.done(needles), page.done(streams) if streams else {}
    if "base" not in models:
        return None
    length = needles["task"]["test_lengths"][-1]
    test = next(iter(models["base"]["results"][0]["bits_per_byte"]))
    columns: list[tuple[dict[str, Any], tuple[str, ...], int, str]]
    columns = [(models, ("bits_per_byte", test), 1, f"bits per byte of {page.text_of(test)}")]
    for kind in needles["task"]["tasks"]:
        label = f"{NEEDLES[kind]}, {length:,} tokens, %"
        columns.append((found, ("accuracy", kind, str(length)), 100, label))
    if read:
        last = _places(streams)[-1]
        columns.append((read, ("bits", last), 1, f"bits per byte of a stream, to {int(last):,}"))
    names = list(dict.fromkeys([*models, *found, *read]))[::-1]
    size = (3.2, 0.3 * len(names) + (5 if read else 1))
    drawn = Figure((len(columns) * size[0] + 1.5, size[1]), layout="constrained")
    drawn.suptitle(TITLE)
    grid = drawn.add_gridspec(2 if read else 1, len(columns))
    row = [drawn.add_subplot(grid[0, i]) for i in range(len(columns))]
    colours = {name: "C3" if name in COMPONENTS else "0.4" for name in names} | {"base": "C0"}
    for panel, (measured, path, scale, label) in zip(row, columns, strict=True):
        values = {}
        for name in set(names) & set(measured):
            mean, std = page.number(measured[name], path)
            values[name] = (scale * mean, None if std is None else scale * std)
        picture.dots(panel, names, values, colours)
        if "base" in measured:
            panel.axvline(scale * page.number(measured["base"], path)[0], linestyle=":", color="C0")
        if scale == 100:
            panel.set_xlim(-5, 105)
        panel.set_xlabel(label, fontsize="small")
        panel.tick_params(labelleft=panel is row[0])
    if read:
        _stream_curves(read, drawn.add_subplot(grid[1, :]))
    return drawn


def _stream_curves(read: dict[str, Any], panel: Any) -> None:
    """Bits per byte of the streams by position: the base and those without a component.

    Not the first hundredth: a book may begin with pages of contents, and a memory has learned little there.
    """
    shown = [name for name in read if name == "base" or name in COMPONENTS]
    places = [int(place) for place in read[shown[0]]["results"][0]["bits"]] if shown else []
    late = [place for place in places if 128 * place >= max(places)]
    looks: dict[str, dict[str, Any]] = {name: {"label": name} for name in shown}
    if "base" in looks:
        looks["base"] = {"label": "base", "color": "black", "linewidth": 2}
    picture.curves(
        panel, [(picture.along(read[name], ("bits",), late), looks[name]) for name in shown]
    )
    picture.lengths(panel, late, "tokens read")
    panel.set_ylabel("bits per byte of the stream")
    panel.legend(fontsize="small")


REPORT = page.Report(lambda _: TITLE, body, figure)
