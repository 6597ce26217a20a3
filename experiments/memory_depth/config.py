"""Configuration of the memory-depth experiment."""

import dataclasses

from experiments.comparison import StudyConfig
from experiments.language_modeling.config import TextConfig
from titans_jax import TitansConfig
from titans_jax.config import is_count, require


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

    depths: tuple[int, ...] = (1, 2, 3, 4)
    same_size_as: int = 2
    lengths: tuple[int, ...] = (256, 1024, 4096)
    tokens_per_step: int = 4096
    repeats: int = 3
    model: TitansConfig = dataclasses.field(default_factory=TitansConfig)
    text: TextConfig = dataclasses.field(default_factory=TextConfig)
    study: StudyConfig = dataclasses.field(default_factory=StudyConfig)

    def __post_init__(self) -> None:
        require(
            self.model.variant != "transformer",
            "config.model.variant",
            self.model.variant,
            "one with a memory",
        )
        require(
            self.same_size_as in self.depths,
            "config.same_size_as",
            self.same_size_as,
            f"one of config.depths = {self.depths}",
        )
        require(is_count(self.repeats), "config.repeats", self.repeats, "a positive integer")
        for length in self.lengths:
            require(
                is_count(length) and self.tokens_per_step % length == 0,
                "config.lengths",
                length,
                f"a divisor of config.tokens_per_step = {self.tokens_per_step}",
            )
