"""What a comparison is told: how every model is trained, and on which task."""

import dataclasses
from collections.abc import Sequence
from typing import Any, Protocol

from experiments.training.config import OptimizerConfig
from experiments.training.step import Batch
from titans_jax import Titans
from titans_jax.config import is_count, require

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

    steps: int = 500
    learning_rates: tuple[float, ...] = (1e-3, 2e-3, 4e-3)
    seeds: tuple[int, ...] = (0, 1)
    optimizer: OptimizerConfig = dataclasses.field(default_factory=OptimizerConfig)
    tolerance: float = 0.03
    log_every: int = 20
    checkpoint_every: int = 250
    max_hours: float = 0.0

    def __post_init__(self) -> None:
        for name in ("steps", "log_every", "checkpoint_every"):
            value = getattr(self, name)
            if value < 1:
                raise ValueError(f"study.{name}={value}: must be at least 1")
        check_distinct("study.learning_rates", self.learning_rates)
        check_distinct("study.seeds", self.seeds)
        if not all(rate > 0 for rate in self.learning_rates):
            raise ValueError(f"study.learning_rates={self.learning_rates}: must be positive")
        for name in ("tolerance", "max_hours"):
            if getattr(self, name) < 0:
                raise ValueError(f"study.{name}={getattr(self, name)}: must not be negative")


def check_distinct(name: str, values: Sequence[float]) -> None:
    """Refuses an empty list, and one in which a value is twice.

    Raises:
      ValueError: names the field and its value.
    """
    if not values or len(set(values)) != len(values):
        raise ValueError(f"{name}={values}: must be a tuple of at least one value, none twice")


def check(config: Any, right: bool, field: str, wanted: str) -> None:
    """Refuses a config one of whose fields cannot work.

    Args:
      config: a dataclass.
      right: whether the field can.
      field: its flag, such as "config.text.length" or "--epochs".
      wanted: what would be right.

    Raises:
      ValueError: names the flag and its value.
    """
    name = field.rpartition(".")[2].removeprefix("--")
    require(right, field, getattr(config, name), wanted)


def check_counts(config: Any, prefix: str, *names: str, least: int = 1) -> None:
    """Refuses a config in which some of these fields are no integers of at least 1, or of at least 0.

    Raises:
      ValueError: names the flag and its value.
    """
    wanted = "a positive integer" if least else "an integer, 0 for none"
    for name in names:
        check(config, is_count(getattr(config, name), least), prefix + name, wanted)


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
