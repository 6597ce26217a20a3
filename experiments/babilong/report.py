"""The tables and the picture of the BABILong experiment, made from its results JSON."""

from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")

import numpy as np
from matplotlib import pyplot as plt

from experiments.babilong.config import samples_at
from experiments.comparison.report import entry, origin, rates, table


def markdown(results: dict[str, Any]) -> str:
    """The page: accuracy by length, the mean and each task; then the streams."""
    study = results["study"]
    task = study["task"]
    done = {name: m for name, m in study["models"].items() if m["mean"] is not None}
    lines = ["# BABILong", "", *origin(results, [study]), ""]
    if not done:
        return "\n".join([*lines, ""])
    lengths = [str(n) for n in task["test_lengths"]]
    lines += [_training(task), "", _tests(task), ""]
    for name in next(iter(done.values()))["mean"]["accuracy"]:
        title = "Mean over the tasks" if name == "mean" else name
        rows = [
            [model, *(entry(done[model], ("accuracy", name, n), 100, 1) for n in lengths)]
            for model in done
        ]
        lines += [*table([title, *lengths], rows), ""]
    if results["streams"]:
        lines += [
            "Read as a stream (per task and seed; mean of the accuracies, percent):",
            "",
            *_streams(results["streams"]),
            "",
        ]
    lines += ["Selection (nats of an answer to held-out training stories) by rate:", ""]
    return "\n".join([*lines, *rates({"babilong": study}), ""])


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
    body = []
    for model in dict.fromkeys(row["model"] for row in rows):
        for length in lengths:
            of = [row for row in rows if row["model"] == model and row["length"] == length]
            cells = [
                f"{100 * np.mean([r['accuracy'] for r in of if r['task'] == t]):.1f}" for t in tasks
            ]
            speed = np.mean([row["tokens_per_second"] for row in of])
            body.append(
                [model, f"{length:,}", str(sum(r["samples"] for r in of)), *cells, f"{speed:,.0f}"]
            )
    return table(["model", "tokens", "samples", *tasks, "tokens/s"], body)


def plot(results: dict[str, Any], path: Path) -> None:
    """Mean accuracy against length; streams as crosses."""
    figure, axes = plt.subplots(figsize=(7, 4.5), layout="constrained")
    for number, (name, model) in enumerate(results["study"]["models"].items()):
        if model["mean"] is None:
            continue
        mean = model["mean"]["accuracy"]["mean"]
        deviation = (model["std"] or {"accuracy": {"mean": {}}})["accuracy"]["mean"]
        # The story alone has no length of its own: drawn at the left end.
        lengths = [max(int(n), 128) for n in mean]
        error = [100 * deviation.get(n, 0.0) for n in mean]
        axes.errorbar(
            lengths,
            [100 * v for v in mean.values()],
            yerr=error,
            fmt="o-",
            color=f"C{number}",
            label=name,
        )
        streams = [row for row in results["streams"] if row["model"] == name]
        by_length: dict[int, list[float]] = {row["length"]: [] for row in streams}
        for row in streams:
            by_length[row["length"]].append(100 * row["accuracy"])
        axes.plot(
            list(by_length), [np.mean(v) for v in by_length.values()], "x", color=f"C{number}"
        )
    axes.set_xscale("log", base=2)
    axes.set(
        xlabel="tokens of the prompt (leftmost: the story alone)",
        ylabel="accuracy, %, mean over the tasks",
    )
    axes.axhline(100 / 6, linestyle=":", color="gray", label="one of six words")
    axes.grid(alpha=0.3)
    axes.legend(fontsize="small")
    figure.savefig(path, dpi=120)
    plt.close(figure)
