"""The models of the memory-depth experiment, what they are tested on, and how fast they train."""

import dataclasses
from pathlib import Path
from typing import Any

from experiments.efficiency.training_speed import measure_all
from experiments.language_modeling.task import TextTask
from experiments.language_modeling.text import bits_per_byte
from experiments.memory_depth.config import MemoryDepthConfig
from titans_jax import Titans, TitansConfig
from titans_jax.matching import match_parameters


class LengthTask(TextTask):
    """Text, tested in windows of several lengths."""

    def __init__(self, folder: Path, config: MemoryDepthConfig):
        """Reads the texts; raises as `TextTask` does."""
        super().__init__(folder, config.text)
        self.lengths = config.lengths

    def describe(self) -> dict[str, Any]:
        """The texts', and the lengths."""
        return {**super().describe(), "lengths": list(self.lengths)}

    def evaluate(self, model: Titans) -> dict[str, Any]:
        """Bits per byte of each test by length of the windows, and the selection."""
        found = {
            name: {str(n): bits_per_byte(model, text, n) for n in self.lengths}
            for name, text in self.tests.items()
        }
        return {"selection": self.bits(model, *self.valid), "bits_per_byte": found}


def make_models(
    config: MemoryDepthConfig, base: TitansConfig
) -> tuple[dict[str, TitansConfig], ...]:
    """The models by depth: with one feed-forward width, and of one size."""
    one_width = {
        str(depth): dataclasses.replace(base, memory=dataclasses.replace(base.memory, depth=depth))
        for depth in config.depths
    }
    like = one_width[str(config.same_size_as)]
    return one_width, {name: match_parameters(model, like) for name, model in one_width.items()}


def speeds(
    config: MemoryDepthConfig, models: dict[str, TitansConfig], workdir: Path
) -> dict[str, Any]:
    """Speed and memory of every depth's training step at every length (experiments/efficiency/training_speed.py)."""
    shapes = [(length, config.tokens_per_step // length) for length in config.lengths]
    found = measure_all(models, shapes, config.repeats, workdir)
    rows = [{"depth": row.pop("model"), **row} for row in found["rows"]]
    return {"origin": found["origin"], "rows": rows}
