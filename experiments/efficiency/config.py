"""Configuration of the training-speed comparison."""

import dataclasses

from titans_jax import TitansConfig
from titans_jax.fields import (
    check_divisors,
    check_fields,
    field,
    instance_of,
    positive_int,
    several,
    string,
)


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

    models: tuple[str, ...] = field(
        ("lmm", "mac", "mag", "mal", "transformer", "transformer_window"), several(string, least=0)
    )
    model: TitansConfig = field(TitansConfig(), instance_of(TitansConfig))
    vocab_size: int = field(256, positive_int)
    lengths: tuple[int, ...] = field((512, 2048, 8192), several(positive_int))
    tokens_per_step: int = field(8192, positive_int)
    repeats: int = field(3, positive_int)
    tpu_topology: str = field("v5e:8x8", string)
    tpu_preset: str = field("400m", string)

    def __post_init__(self) -> None:
        check_fields(self)
        check_divisors("lengths", self.lengths, "tokens_per_step", self.tokens_per_step)
