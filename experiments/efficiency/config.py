"""Configuration of the training-speed comparison."""

import dataclasses

from titans_jax import TitansConfig
from titans_jax.config import is_count, require


@dataclasses.dataclass(frozen=True)
class EfficiencyConfig:
    """What is measured.

    Attributes:
      models: names (experiments/language_modeling/models.py).
      model: what they share; all get its number of parameters.
      vocab_size: tokens of the vocabulary.
      lengths: tokens of a sequence.
      tokens_per_step: the batch size is this over the length.
      repeats: steps timed of each.
      tpu_topology: for which the preset's step is compiled, such as "v5e:8x8"; "" for no static estimate.
      tpu_preset: one of the paper's sizes, experiments/configs/titans_SIZE.py.
    """

    models: tuple[str, ...] = ("lmm", "mac", "mag", "mal", "transformer", "transformer_window")
    model: TitansConfig = dataclasses.field(default_factory=TitansConfig)
    vocab_size: int = 256
    lengths: tuple[int, ...] = (512, 2048, 8192)
    tokens_per_step: int = 8192
    repeats: int = 3
    tpu_topology: str = "v5e:8x8"
    tpu_preset: str = "400m"

    def __post_init__(self) -> None:
        require(is_count(self.repeats), "config.repeats", self.repeats, "a positive integer")
        for length in self.lengths:
            require(
                is_count(length) and self.tokens_per_step % length == 0,
                "config.lengths",
                length,
                f"a divisor of config.tokens_per_step = {self.tokens_per_step}",
            )
        require(bool(self.lengths), "config.lengths", self.lengths, "at least one")
