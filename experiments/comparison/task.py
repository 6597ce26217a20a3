"""What a comparison asks of a task: batches to train on, and a judgement of a trained model."""

from typing import Any, Protocol

from experiments.training.step import Batch
from titans_jax import Titans

#: The entry of a judgement by which a learning rate is chosen: lower is better.
SELECTION = "selection"


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
          Nested dicts of numbers; the study reports the mean and the standard deviation of each over the seeds.
          `SELECTION` is what the learning rate is chosen by, lower is better: a loss on data that the test is not.
        """
        ...
