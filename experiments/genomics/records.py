"""The records of a task's trainings: one dict each, kept in a JSON file, found again after an interruption."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any


class Records:
    """The trainings of a task."""

    def __init__(self, path: Path, shared: dict[str, Any], command: str):
        """Reads what is there.

        Args:
            path: the JSON file.
            shared: all that the trainings have in common.
            command: that makes them.

        Raises:
            ValueError: if the file holds trainings that have something else in common.
        """
        self.content: dict[str, Any] = {"command": command, **shared, "runs": []}
        if not path.exists():
            return
        saved = json.loads(path.read_text(encoding="utf-8"))
        for field, value in shared.items():
            if saved.get(field) != value:
                raise ValueError(
                    f"{path} holds trainings with another {field}: {saved.get(field)} there, {value} given; give the "
                    "same values, or another --output"
                )
        self.content["runs"] = saved["runs"]

    def find(self, model: str, rate: float, seed: int) -> dict[str, Any] | None:
        """The record of a training, None if it is missing."""
        wanted = {"model": model, "rate": rate, "seed": seed}
        for run in self.content["runs"]:
            if all(run[key] == value for key, value in wanted.items()):
                return run
        return None

    def add(self, run: dict[str, Any]) -> None:
        """Adds a training, in place of its earlier record."""
        old = self.find(run["model"], run["rate"], run["seed"])
        self.content["runs"] = [r for r in self.content["runs"] if r is not old] + [run]


def best_rate(content: dict[str, Any], model: str) -> float | None:
    """The rate with the least validation loss of the first seed; None if none came to its end."""
    first = content["settings"]["seeds"][0]
    swept = [
        run
        for run in content["runs"]
        if run["model"] == model and run["seed"] == first and run["selection"] is not None
    ]
    return min(swept, key=lambda run: run["selection"])["rate"] if swept else None


def tested(content: dict[str, Any], model: str) -> list[dict[str, Any]]:
    """The trainings of a model at its best rate that were tested, in order of seeds."""
    rate = best_rate(content, model)
    runs = [
        run
        for run in content["runs"]
        if run["model"] == model and run["rate"] == rate and "test" in run
    ]
    return sorted(runs, key=lambda run: run["seed"])
