"""Configuration of the memory-depth experiment."""

import dataclasses

from experiments.comparison import StudyConfig
from experiments.language_modeling.config import TextConfig
from titans_jax import TitansConfig
from titans_jax.fields import (
    check_divisors,
    check_fields,
    field,
    instance_of,
    positive_int,
    require,
    several,
)
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
