"""Models of equal parameters: the layers and the feed-forward width that give one as many as another has."""

from __future__ import annotations

import dataclasses
import math

import jax
from flax import nnx

from titans_jax.config import TitansConfig
from titans_jax.fields import require
from titans_jax.models.language_model import Titans

#: The largest difference in parameters, relative to the reference.
TOLERANCE = 0.03


def count_parameters(config: TitansConfig) -> int:
    """Parameters of a model; only shapes are evaluated."""
    state = nnx.state(nnx.eval_shape(lambda: Titans(config, rngs=nnx.Rngs(0))), nnx.Param)
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(state))


def match_parameters(
    config: TitansConfig, reference: TitansConfig, *, multiple: int = 8
) -> TitansConfig:
    """A model with as many parameters as another, by its layers and its feed-forward width.

    It keeps the layers that it has, unless its mixers are so large that the feed-forward layers would be narrower than
    the model; then it has as many layers fewer as that takes.

    Args:
        config: whose `num_layers` and `feed_forward` are replaced.
        reference: whose parameters are wanted.
        multiple: of which the feed-forward width is one.

    Returns:
        The configuration, within 3 % of the reference.

    Raises:
        ValueError: if no width comes so near.
    """
    wanted = count_parameters(reference)
    found = None
    for layers in range(config.num_layers, 0, -1):
        base = dataclasses.replace(config, num_layers=layers)

        def size(width: int, base: TitansConfig = base) -> int:
            return count_parameters(dataclasses.replace(base, feed_forward=width))

        low = size(multiple)
        slope = (size(2 * multiple) - low) / multiple
        width = multiple * round((multiple + (wanted - low) / slope) / multiple)
        near = width > 0 and abs(low + slope * (width - multiple) - wanted) <= TOLERANCE * wanted
        if near:
            found = dataclasses.replace(base, feed_forward=width)
        if near and width >= config.dim:
            break
    require(
        found is not None,
        "config",
        config.variant,
        f"a model that some feed-forward width brings within 3 % of {wanted:,} parameters",
    )
    assert found is not None
    return found
