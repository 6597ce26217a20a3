"""Which axis of the mesh each axis of a parameter is shared out over: one table of rules.

Projections into heads or hidden features are cut by columns over "tensor", projections back by rows, so that between
the two nothing is exchanged; memories and their gates are cut by heads. What is left of a matrix is cut over "fsdp":
it is stored in parts and gathered where it is used. An axis of a parameter that a mesh axis does not divide (a
vocabulary of 257) stays whole. The optimizer's moments lie where their parameters do.
"""

import math
import re

import jax
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import PyTree

from experiments.training.optimizer import STACKED, path_name

#: (end of the parameter's name, mesh axis of each of its axes after the layers'); the first that matches decides.
RULES: tuple[tuple[str, tuple[str | None, ...]], ...] = (
    (r"embedding", ("tensor", "fsdp")),
    (r"head/kernel", ("fsdp", "tensor")),
    (r"conv/kernel", (None, "tensor")),
    (r"(down|output)/kernel", ("tensor", "fsdp")),
    (r"(gate|up|linear|query|key|value|output_gate)/kernel", ("fsdp", "tensor")),
    (r"decay_down/kernel", ("fsdp", None)),
    (r"decay_up/kernel", (None, "tensor")),
    (r"(beta|step)_kernel", ("fsdp", "tensor")),
    (r"(decay_bias|step_bias|beta_bias|log_a|skip)", ("tensor",)),
    (r"gate_kernel", ("fsdp", None, "tensor")),
    (r"gate_bias", (None, "tensor")),
    (r"initial_weights/\d+", ("tensor", "fsdp", None)),
    (r"gain", ("tensor", None)),
    (r"persistent/tokens", (None, "fsdp")),
    (r"(scale|attention_gain)", (None,)),
)


def parameter_spec(name: str, shape: tuple[int, ...], mesh: Mesh) -> PartitionSpec:
    """The axes over which one parameter, or one of its moments, is shared out.

    Args:
      name: such as "layers/feed_forward/up/kernel", or a longer one that ends so.
      shape: its whole shape.
      mesh: with the axes "fsdp" and "tensor".

    Raises:
      ValueError: no rule is for it.
    """
    names = name.split("/")
    axes = next((a for rule, a in RULES if re.search(rf"(^|/){rule}$", name)), None)
    stacked = STACKED in names
    if axes is None or len(axes) != len(shape) - stacked:
        raise ValueError(
            f"parameter {name} of shape {shape}: no rule of experiments/training/sharding.py is for it; add one"
        )
    whole = (None,) * stacked + axes
    return PartitionSpec(
        *(
            axis if axis is not None and size % mesh.shape[axis] == 0 else None
            for axis, size in zip(whole, shape, strict=True)
        )
    )


def shardings(tree: PyTree, mesh: Mesh) -> PyTree:
    """Where the leaves of parameters or of an optimizer's state lie; a scalar, such as its count, is everywhere.

    Args:
      tree: arrays or shapes, under the parameters' names.
      mesh: the run's.

    Raises:
      ValueError: as `parameter_spec`.
    """

    def one(path: tuple, leaf: jax.ShapeDtypeStruct) -> NamedSharding:
        name = path_name(path)
        spec = parameter_spec(name, leaf.shape, mesh) if leaf.shape else PartitionSpec()
        return NamedSharding(mesh, spec)

    return jax.tree_util.tree_map_with_path(one, tree)


def bytes_per_device(tree: PyTree, placed: PyTree) -> int:
    """Bytes of a tree of arrays or shapes on each device.

    Args:
      tree: arrays or shapes.
      placed: their shardings.
    """
    sizes = jax.tree.map(
        lambda x, s: math.prod(s.shard_shape(x.shape)) * x.dtype.itemsize, tree, placed
    )
    return sum(jax.tree.leaves(sizes))
