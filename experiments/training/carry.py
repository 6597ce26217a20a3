"""Training with a memory that goes on: `config.data.carry` windows of text for every row of the batch.

A model that is trained on separate windows meets its memory only as it is shortly after M_0. Here a row's state goes
on from window to window; gradients stop at the window's start (truncated backpropagation through time). The state is
part of what a run saves, beside the optimizer's: `Carried` stands for both wherever one that does not carry has the
optimizer's state alone.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax import nnx
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import PyTree

from experiments.training.config import TrainConfig
from titans_jax.placement import BATCH_AXES


class Carried(NamedTuple):
    """What a training step hands to the next one, beside the parameters."""

    optimizer: PyTree
    memory: PyTree  # the model's state, leaves [L B ...]


def carried_rows(config: TrainConfig) -> int:
    """Rows whose memory goes on; 0: none does."""
    return config.batch_size if config.data.carry else 0


def start(
    graphdef: nnx.GraphDef, optimizer: optax.GradientTransformation, rows: int
) -> Callable[[PyTree], PyTree]:
    """Returns the function: fresh parameters -> what the first step takes beside them.

    Args:
      graphdef: the model's static part.
      optimizer: any optax transformation.
      rows: of `carried_rows`.
    """

    def state(params: PyTree) -> PyTree:
        if not rows:
            return optimizer.init(params)
        return Carried(optimizer.init(params), nnx.merge(graphdef, params).init_state(rows))

    return state


def rows_over(mesh: Mesh, memory: PyTree) -> PyTree:
    """Shardings of a model's state: its rows lie where those of the batch lie.

    Args:
      mesh: the run's.
      memory: arrays or shapes.
    """
    return jax.tree.map(lambda _: NamedSharding(mesh, PartitionSpec(None, BATCH_AXES)), memory)


def unless_bad(bad: Any, old: PyTree, new: PyTree) -> PyTree:
    """The memory after a step: as it was before a step that changed nothing, since what it read may be NaN."""
    return jax.tree.map(lambda a, b: jnp.where(bad, a, b), old, new)
