"""The models of the memory-depth experiment, what they are tested on, and how fast they train."""

import dataclasses
from pathlib import Path
from typing import Any

from experiments.comparison import StudyConfig
from experiments.efficiency.training_speed import measure_all
from experiments.language_modeling.bits_per_byte import bits_per_byte
from experiments.language_modeling.task import TextConfig, TextTask
from titans_jax import Titans, TitansConfig
from titans_jax.fields import (
    check_divisors,
    check_fields,
    field,
    instance_of,
    positive_int,
    require,
    several,
)
from titans_jax.matching import match_parameters
from titans_jax.memory.networks import NETWORK_DEPTH


@dataclasses.dataclass(frozen=True)
class MemoryDepthConfig:
    """Everything that decides the experiment.

    Attributes:
      depths: layers of the memory network, L_M.
      same_size_as: with this depth's number of parameters all depths are compared once more.
      lengths: tokens of the windows that are tested, and of the sequences whose training is timed.
      tokens_per_step: of the timed steps; the batch is this over the length.
      repeats: steps that are timed.
      model: what all share.
      text: see TextConfig; `length` is that of training.
      study: see StudyConfig.
    """

    depths: tuple[int, ...] = field((1, 2, 3, 4), several(NETWORK_DEPTH))
    same_size_as: int = field(2, NETWORK_DEPTH)
    lengths: tuple[int, ...] = field((256, 1024, 4096), several(positive_int))
    tokens_per_step: int = field(4096, positive_int)
    repeats: int = field(3, positive_int)
    model: TitansConfig = field(TitansConfig(), instance_of(TitansConfig))
    text: TextConfig = field(TextConfig(), instance_of(TextConfig))
    study: StudyConfig = field(StudyConfig(), instance_of(StudyConfig))

    def __post_init__(self) -> None:
        check_fields(self)
        variant, depth = self.model.variant, self.same_size_as
        require(self.model.has_memory, "model.variant", variant, "one with a memory")
        require(depth in self.depths, "same_size_as", depth, f"one of depths = {self.depths}")
        check_divisors("lengths", self.lengths, "tokens_per_step", self.tokens_per_step)


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
