"""The page and the picture of the BABILong experiment."""

from typing import Any

import numpy as np
from matplotlib.figure import Figure

from experiments.babilong.task import samples_at
from experiments.comparison import page, picture

TITLE = "BABILong: facts of a story hidden in prose"
#: Where the story alone, which has no length of its own, is drawn.
_ALONE = 128


def body(results: dict[str, Any]) -> list[str]:
    """Accuracy by length, the mean and each task; then the streams."""
    study = results["study"]
    task, models = study["task"], page.done(study)
    lines = [*page.training_lines([study]), ""]
    if not models:
        return lines
    tested = [str(n) for n in task["test_lengths"]]
    lines += [_training(task), "", _tests(task), ""]
    for name in next(iter(models.values()))["results"][0]["accuracy"]:
        title = "Mean over the tasks" if name == "mean" else name
        rows = [
            [
                page.title_of(model),
                *(page.entry(found, ("accuracy", name, n), 100, 1) for n in tested),
            ]
            for model, found in models.items()
        ]
        lines += [*page.table([title, *tested], rows), ""]
    streams = results["streams"]
    if streams["rows"]:
        lines += [
            "Read as a stream (per task and seed; mean of the accuracies, percent):",
            "",
            *_streams(streams["rows"]),
            "",
            *page.origin_lines([streams["origin"]]),
            "",
        ]
    lines += ["Selection (nats of an answer to held-out training stories) by rate:", ""]
    return [*lines, *page.sweep_table({"babilong": study})]


def _training(task: dict[str, Any]) -> str:
    said = (
        f"Tokens of {task['tokenizer']}. Prose alone for {task['prose_steps']} steps, then stories"
    )
    if task["short_steps"]:
        said += f" in prompts of {_listed(task['short_lengths'])} tokens for {task['short_steps']:,} steps, then"
    said += f" in prompts of {_listed(task['train_lengths'])} tokens; only answers count."
    if task["exchange"]:
        said += f" Training exchanges words for each other: {'; '.join(map(_listed, task['exchange']))}."
    return said


def _tests(task: dict[str, Any]) -> str:
    counts = (task[name] for name in ("test_samples", "test_tokens", "least_samples"))
    least = samples_at(max(task["test_lengths"]), *counts)
    few = f", {least} of the longest," if least < task["test_samples"] else ""
    return (
        f"{task['test_samples']} test samples of each task and length{few} in prose that training has not seen; 0 is "
        "the story alone. Accuracy in percent; six words are answers."
    )


def _listed(items: list[Any]) -> str:
    return ", ".join(map(str, items))


def _streams(rows: list[dict[str, Any]]) -> list[str]:
    lengths = sorted({row["length"] for row in rows})
    tasks = list(dict.fromkeys(row["task"] for row in rows))
    lines = []
    for model in dict.fromkeys(row["model"] for row in rows):
        for length in lengths:
            of = [row for row in rows if row["model"] == model and row["length"] == length]
            cells = [
                f"{100 * np.mean([r['accuracy'] for r in of if r['task'] == t]):.1f}" for t in tasks
            ]
            speed = np.mean([row["tokens_per_second"] for row in of])
            lines.append(
                [
                    page.title_of(model),
                    f"{length:,}",
                    str(sum(r["samples"] for r in of)),
                    *cells,
                    f"{speed:,.0f}",
                ]
            )
    return page.table(["model", "tokens", "samples", *tasks, "tokens/s"], lines)


def figure(results: dict[str, Any]) -> Figure | None:
    """Mean accuracy against length; streams as crosses."""
    models = page.done(results["study"])
    if not models:
        return None
    drawn, axes = picture.panels(1, 1, TITLE, size=(6.5, 4.2))
    panel, tested = axes[0][0], results["study"]["task"]["test_lengths"]
    streamed: set[int] = set()
    for name, model in models.items():
        means = picture.along(model, ("accuracy", "mean"), tested, 100)
        picture.curves(panel, [({max(n, _ALONE): v for n, v in means.items()}, picture.look(name))])
        by_length: dict[int, list[float]] = {}
        for row in results["streams"]["rows"]:
            if row["model"] == name:
                by_length.setdefault(row["length"], []).append(100 * row["accuracy"])
        values = [float(np.mean(v)) for v in by_length.values()]
        label = f"{page.title_of(name)}, as a stream" if values else None
        panel.plot(list(by_length), values, "x", color=picture.look(name)["color"], label=label)
        streamed |= set(by_length)
    ticks = sorted({max(n, _ALONE) for n in tested} | streamed)
    picture.lengths(panel, ticks, "tokens of the prompt")
    said = ["story\nalone" if tick == _ALONE and 0 in tested else None for tick in ticks]
    labels = [label.get_text() for label in panel.get_xticklabels()]
    panel.set_xticks(ticks, [s or label for s, label in zip(said, labels, strict=True)])
    panel.axhline(100 / 6, linestyle=":", color="gray", label="guessing one of six words")
    picture.percent(panel, "right answers, %, mean over the tasks")
    picture.legend(drawn, panel)
    return drawn


REPORT = page.Report(lambda _: TITLE, body, figure)
