"""The models of a comparison, by name, all of equal size.

A name is a variant of `TitansConfig`, or "transformer_window" for a Transformer++ whose attention sees as far as that
of the hybrids; "transformer" has full attention. "mac_closed", "deltanet_closed" and so on have a memory that begins
closed.

All share the model dimension with one base; the feed-forward width, and where that does not suffice the layers, make up
for mixers of different size (titans_jax/matching.py).
"""

import dataclasses
from collections.abc import Sequence
from typing import Any, get_args

from titans_jax import TitansConfig
from titans_jax.config import MEMORY_VARIANTS, MemoryConfig, Variant
from titans_jax.fields import require
from titans_jax.matching import match_parameters
from titans_jax.presets import HEAD_DIM, RECURRENT_HEAD_DIM

WINDOWED = "transformer_window"
#: What the gate of a closed memory's writes begins with: less than a hundredth of the largest step.
CLOSED_BIAS = -5.0
#: Baselines whose writes have a gate of their own; Mamba-2's steps begin small as published.
_GATED_WRITES = ("deltanet", "gated_deltanet", "ttt_linear", "ttt_mlp")
_CLOSED = {f"{variant}_closed": variant for variant in (*MEMORY_VARIANTS, *_GATED_WRITES)}
#: Every model once; the names of closed memories are known beside them.
NAMES: tuple[str, ...] = (*get_args(Variant), WINDOWED)
KNOWN: tuple[str, ...] = (*NAMES, *_CLOSED)


def make_models(names: Sequence[str], base: TitansConfig) -> dict[str, TitansConfig]:
    """The models by name, each with as many parameters as the base.

    Args:
      names: of `KNOWN`.
      base: what they share.

    Raises:
      ValueError: a name is unknown, or a model cannot be made of that size.
    """
    for name in names:
        require(name in KNOWN, "config.models", name, f"one of {KNOWN}")
    return {name: match_parameters(named(name, base), base) for name in names}


def named(name: str, base: TitansConfig) -> TitansConfig:
    """A model by name, with everything else like the base.

    Models without a memory have no persistent tokens either, and whatever the base says of a memory does not tell
    their trials from others; a recurrence has as many heads as its presets have, beside the base's.
    """
    variant = "transformer" if name == WINDOWED else _CLOSED.get(name, name)
    changes: dict[str, Any] = {"variant": variant}
    recurrence = base.recurrence
    if name in _CLOSED and variant in MEMORY_VARIANTS:
        changes |= {"memory": dataclasses.replace(base.memory, step_bias=CLOSED_BIAS)}
    elif name in _CLOSED:
        recurrence = dataclasses.replace(recurrence, step_bias=CLOSED_BIAS)
    if variant not in MEMORY_VARIANTS:
        changes |= {"persistent_tokens": 0, "memory": MemoryConfig()}
    if name == "transformer":
        changes |= {"window": None}
    heads = recurrence.num_heads * HEAD_DIM // RECURRENT_HEAD_DIM.get(variant, HEAD_DIM)
    changes |= {"recurrence": dataclasses.replace(recurrence, num_heads=max(1, heads))}
    return dataclasses.replace(base, **changes)
