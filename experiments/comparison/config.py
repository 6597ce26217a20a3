"""What a comparison is told: how every model is trained, and on which task."""

import dataclasses
from typing import Any, Protocol

from experiments.training.config import OptimizerConfig
from experiments.training.step import Batch
from titans_jax import Titans
from titans_jax.fields import (
    check_fields,
    field,
    instance_of,
    non_negative,
    positive,
    positive_int,
    random_seed,
    several,
)

#: The entry of a judgement by which a candidate is chosen: lower is better.
SELECTION = "selection"


@dataclasses.dataclass(frozen=True)
class StudyConfig:
    """How every model of a comparison is trained.

    Attributes:
      steps: optimizer steps of a trial.
      learning_rates: the sweep; every model is trained at each with the first seed.
      seeds: of parameters and data order; all are trained at the model's best rate. At least two give a deviation.
      optimizer: AdamW's other settings; its `learning_rate` is the sweep's.
      tolerance: models may differ by this fraction of the first one's parameters.
      log_every: steps between points of the loss curve.
      checkpoint_every: steps between checkpoints; one is always made at the end.
      max_hours: start no trial after so long, and say what is left; 0 = no limit.
    """

    steps: int = field(500, positive_int)
    learning_rates: tuple[float, ...] = field((1e-3, 2e-3, 4e-3), several(positive, distinct=True))
    seeds: tuple[int, ...] = field((0, 1), several(random_seed, distinct=True))
    optimizer: OptimizerConfig = field(OptimizerConfig(), instance_of(OptimizerConfig))
    tolerance: float = field(0.03, non_negative)
    log_every: int = field(20, positive_int)
    checkpoint_every: int = field(250, positive_int)
    max_hours: float = field(0.0, non_negative)

    def __post_init__(self) -> None:
        check_fields(self)


class Task(Protocol):
    """A task; batches are a function of their number, so that a resumed training sees those that it had left."""

    def describe(self) -> dict[str, Any]:
        """All that decides batches and judgement, as JSON values: a folder that holds another task is refused."""
        ...

    def batch(self, index: int, seed: int) -> Batch:
        """Training batch `index` of the order `seed`: the same for every model.

        Returns:
          "inputs" and "targets", Int32[B T], and "loss_mask", Bool[B T] or Float32[B T]: the weight of each target
          in the mean loss. Lengths may vary between batches; each compiles once.
        """
        ...

    def evaluate(self, model: Titans) -> dict[str, Any]:
        """Judges a trained model.

        Returns:
          Nested dicts of numbers; pages show the mean and the standard deviation of each over the seeds. `SELECTION`
          is what the learning rate is chosen by, lower is better: a loss on data that the test is not.
        """
        ...
