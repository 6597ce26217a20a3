"""The models of a comparison, by name, all of equal size.

A name is a variant of `TitansConfig`, or "transformer_window" for a Transformer++ whose attention sees as far as that
of the hybrids; "transformer" has full attention. All share width, layers and heads with one base; the width of the
feed-forward layers makes up for mixers of different size.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any, get_args

from experiments.comparison.trial import count_parameters
from titans_jax import TitansConfig
from titans_jax.config import Variant, require

WINDOWED = "transformer_window"
NAMES: tuple[str, ...] = (*get_args(Variant), WINDOWED)


def make_models(names: Sequence[str], base: TitansConfig) -> dict[str, TitansConfig]:
    """The models by name, each with as many parameters as the base.

    Args:
      names: of `NAMES`.
      base: what they share.

    Raises:
      ValueError: a name is unknown, or a model cannot be made of that size.
    """
    for name in names:
        require(name in NAMES, "config.models", name, f"one of {NAMES}")
    return {name: same_size(named(name, base), base) for name in names}


def named(name: str, base: TitansConfig) -> TitansConfig:
    """A model by name, with everything else like the base."""
    changes: dict[str, Any] = {"variant": name}
    if name == WINDOWED:
        changes = {"variant": "transformer", "persistent_tokens": 0}
    if name == "transformer":
        changes |= {"persistent_tokens": 0, "window": None}
    return dataclasses.replace(base, **changes)


def same_size(model: TitansConfig, like: TitansConfig) -> TitansConfig:
    """A model with the feed-forward width that gives it as many parameters as another.

    Raises:
      ValueError: no width comes within 3 %.
    """
    wanted = count_parameters(like)

    def size(width: int) -> int:
        return count_parameters(dataclasses.replace(model, feed_forward=width))

    # The number grows linearly with the width, so two sizes give the slope.
    low = size(8)
    width = max(1, 8 + round((wanted - low) / ((size(16) - low) / 8)))
    if abs(size(width) - wanted) > 0.03 * wanted:
        raise ValueError(
            f"model.feed_forward={like.feed_forward}: too narrow for a {model.variant} of as many "
            f"parameters, {wanted:,}"
        )
    return dataclasses.replace(model, feed_forward=width)
