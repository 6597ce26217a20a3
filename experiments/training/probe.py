"""A look into the memories of a model in training: gates, norms and surprise of each layer, on one sequence.

A program of its own, token by token and therefore slow, that runs every so many steps beside the training step and
changes nothing of it.
"""

from collections.abc import Callable
from typing import Any

import jax
from flax import nnx
from jax.sharding import NamedSharding, PartitionSpec
from jaxtyping import PyTree

from experiments.training.step import Batch
from titans_jax.models.diagnostics import model_diagnostics

#: Fields of titans_jax.memory.Diagnostics, and what their means are called in the log.
NAMES = {
    "alpha": "alpha",
    "eta": "eta",
    "theta": "theta",
    "weights_norm": "norm_M",
    "momentum_norm": "norm_S",
    "gradient_norm": "surprise",
    "loss": "recall_loss",
}


def make_probe(
    graphdef: nnx.GraphDef, replicated: NamedSharding
) -> Callable[[PyTree, Batch], dict[str, Any]]:
    """Returns the jitted (params, batch) -> {"alpha": mean of each layer, ...}, over the batch's first sequence.

    Args:
      graphdef: of a model with memories.
      replicated: where the results go, whole, so that every process can read them.
    """

    def probe(params: PyTree, batch: Batch) -> dict[str, Any]:
        def first(x: Any) -> Any:
            return jax.lax.with_sharding_constraint(
                x[:1], NamedSharding(replicated.mesh, PartitionSpec())
            )

        reset = batch.get("reset")
        found = model_diagnostics(
            nnx.merge(graphdef, params),
            first(batch["inputs"]),
            reset=None if reset is None else first(reset),
        )
        return {name: getattr(found, field).mean((1, 2, 3)) for field, name in NAMES.items()}

    return jax.jit(probe, out_shardings=replicated)


def as_record(step: int, found: dict[str, Any]) -> dict[str, Any]:
    """Returns {"step": step, "memory/0/alpha": ..., ...} of what a probe found; layers count from 0."""
    record: dict[str, Any] = {"step": step}
    for name, layers in jax.device_get(found).items():
        record |= {f"memory/{index}/{name}": float(x) for index, x in enumerate(layers)}
    return record
