"""Counting parameters: the table of a model, and a Transformer++ with as many."""

import dataclasses
import math

import jax
from jaxtyping import PyTree

from experiments.training.optimizer import decays, path_name
from experiments.training.step import split_model
from titans_jax import TitansConfig


def count(params: PyTree) -> int:
    """Returns the number of scalars in a tree of arrays or shapes."""
    return sum(math.prod(x.shape) for x in jax.tree.leaves(params))


def table(params: PyTree, placed: PyTree) -> str:
    """Returns one line per parameter: name, shape, type, number, whether weight decay applies, and the mesh axes.

    Args:
      params: arrays or shapes.
      placed: their shardings.
    """
    rows = [("parameter", "shape", "type", "number", "decay", "shared out over")]
    where = jax.tree.leaves(placed)
    for (path, x), sharding in zip(
        jax.tree_util.tree_flatten_with_path(params)[0], where, strict=True
    ):
        name = path_name(path)
        decay = "yes" if decays(name, x.ndim) else "no"
        held = [a for a in sharding.spec if a is not None and sharding.mesh.shape[a] > 1]
        shape, number = "x".join(map(str, x.shape)), f"{math.prod(x.shape):,}"
        rows.append((name, shape, str(x.dtype), number, decay, ", ".join(held)))
    rows.append(("total", "", "", f"{count(params):,}", "", ""))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = []
    for name, shape, dtype, number, decay, axes in rows:
        cells = (
            name.ljust(widths[0]),
            shape.ljust(widths[1]),
            dtype.ljust(widths[2]),
            number.rjust(widths[3]),
            decay.ljust(widths[4]),
            axes,
        )
        lines.append("  ".join(cells).rstrip())
    return "\n".join(lines) + "\n"


def transformer_like(config: TitansConfig) -> TitansConfig:
    """Returns a Transformer++ with the width, layers and window of `config` and as many parameters.

    Its attention sees as many tokens back as the model's does (MAC: a segment's length), and its feed-forward width
    makes up for the parameters of the memory. Only shapes are evaluated.

    Raises:
      ValueError: no width comes within 2 %.
    """
    wanted = count(split_model(config)[1])
    window = config.segment if config.variant == "mac" else config.window
    base = dataclasses.replace(config, variant="transformer", window=window)

    def size(width: int) -> int:
        return count(split_model(dataclasses.replace(base, feed_forward=width))[1])

    # The number grows linearly with the width, so two sizes give the slope.
    low = size(8)
    slope = (size(16) - low) / 8
    width = max(1, 8 + round((wanted - low) / slope))
    if abs(size(width) - wanted) > 0.02 * wanted:
        raise ValueError(
            f"config.baseline=True: a Transformer++ of {wanted:,} parameters would need a feed-forward width below 1; "
            "raise config.model.feed_forward, or set config.baseline=False"
        )
    return dataclasses.replace(base, feed_forward=width)
