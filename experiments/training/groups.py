"""A handful of groups of parameters, and the norm of each: where a gradient or an update is large.

Five numbers that fit into a log instead of one per parameter.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from experiments.training.optimizer import path_name

GROUPS = ("embedding", "attention", "memory", "feed_forward", "norms")


def group_of(name: str) -> str:
    """Returns the group of a parameter.

    Args:
      name: such as "layers/feed_forward/up/kernel".
    """
    names = name.split("/")
    if names[-1] == "scale":
        return "norms"
    if names[0] != "layers" or "persistent" in names:  # logits and persistent tokens too
        return "embedding"
    if names[1] == "feed_forward":
        return "feed_forward"
    if names[2] in ("memory", "context_query"):
        return "memory"
    return "attention"


def group_norms(tree: PyTree) -> Float[Array, " groups"]:
    """Returns the norm of each of `GROUPS`; 0 for one without parameters.

    Args:
      tree: gradients or updates, under the parameters' names.
    """
    squares = [jnp.zeros((), jnp.float32) for _ in GROUPS]
    for path, x in jax.tree_util.tree_flatten_with_path(tree)[0]:
        index = GROUPS.index(group_of(path_name(path)))
        squares[index] += jnp.sum(jnp.square(x), dtype=jnp.float32)
    return jnp.sqrt(jnp.stack(squares))
