"""Presets: the paper's sizes (§5.1), and one that trains in minutes on two CPU cores.

Sizes are named by their parameters with a vocabulary of 32,000 and tied embeddings; a test holds every variant
within 5 % of its name. The matrix units of TPUs are 128 or 256 wide, so attention heads have 128 features;
memory heads have 256, and share an anchor among 256 tokens, because a chunk's products then fill the wider unit
too, and hide the work on its state (experiments/kernel_report). The paper gives neither depths nor widths;
layers and feed-forward widths here are those nearest to 8/3 of the model dimension that reach the size, so a
variant with a larger mixer is less deep. The recurrent baselines have LMM's layers, the hybrids as many mixers in all,
and the feed-forward widths that `matching.match_parameters` finds: within 3 % of every Titans of their size.
"""

from __future__ import annotations

import dataclasses
import difflib
from typing import Any, NamedTuple, get_args

from titans_jax.config import (
    MEMORY_VARIANTS,
    RULE_OF_0_1,
    MemoryConfig,
    RecurrenceConfig,
    TitansConfig,
    Variant,
    require,
)

HEAD_DIM = 128
MEMORY_HEAD_DIM = 256
#: Model dimension over heads, where it is not `HEAD_DIM`: Mamba-2's heads have 64 features, of twice the dimension.
RECURRENT_HEAD_DIM = {"mamba2": 32, "retnet": 256, "gla": 256}


class Size(NamedTuple):
    """Model dimension, and per variant its number of layers and its feed-forward width."""

    dim: int
    layers: dict[str, tuple[int, int]]


SIZES = {
    "170m": Size(
        768,
        {
            "mac": (14, 1920),
            "mag": (15, 1792),
            "mal": (14, 1920),
            "lmm": (18, 1920),
            "transformer": (20, 2176),
            "linear_attention": (18, 2560),
            "retnet": (18, 1536),
            "gla": (18, 2560),
            "mamba2": (18, 1920),
            "deltanet": (18, 2560),
            "gated_deltanet": (18, 2048),
            "ttt_linear": (18, 2176),
            "ttt_mlp": (18, 1920),
            "samba": (9, 2176),
            "gated_deltanet_h2": (6, 2176),
        },
    ),
    "340m": Size(
        1024,
        {
            "mac": (17, 2432),
            "mag": (18, 2560),
            "mal": (17, 2432),
            "lmm": (22, 2560),
            "transformer": (24, 2816),
            "linear_attention": (22, 3200),
            "retnet": (22, 1920),
            "gla": (22, 3200),
            "mamba2": (22, 2432),
            "deltanet": (22, 3200),
            "gated_deltanet": (22, 2560),
            "ttt_linear": (22, 2816),
            "ttt_mlp": (22, 2560),
            "samba": (11, 2816),
            "gated_deltanet_h2": (7, 2944),
        },
    ),
    "400m": Size(
        1024,
        {
            "mac": (20, 2560),
            "mag": (21, 2688),
            "mal": (20, 2560),
            "lmm": (26, 2560),
            "transformer": (29, 2816),
            "linear_attention": (26, 3200),
            "retnet": (26, 1920),
            "gla": (26, 3200),
            "mamba2": (26, 2432),
            "deltanet": (26, 3200),
            "gated_deltanet": (26, 2560),
            "ttt_linear": (26, 2816),
            "ttt_mlp": (26, 2560),
            "samba": (13, 2816),
            "gated_deltanet_h2": (8, 3200),
        },
    ),
    "760m": Size(
        1536,
        {
            "mac": (17, 4096),
            "mag": (18, 4096),
            "mal": (17, 4096),
            "lmm": (23, 3840),
            "transformer": (25, 4096),
            "linear_attention": (23, 4736),
            "retnet": (23, 2688),
            "gla": (23, 4736),
            "mamba2": (23, 3584),
            "deltanet": (23, 4736),
            "gated_deltanet": (23, 3712),
            "ttt_linear": (23, 4096),
            "ttt_mlp": (23, 3840),
            "samba": (11, 4480),
            "gated_deltanet_h2": (7, 4608),
        },
    ),
}


PRESETS = ("tiny", *SIZES)


def preset(
    name: str, variant: Variant = "mac", *, paper: bool = False, **overrides: Any
) -> TitansConfig:
    """A configuration by name.

    The transformer is the baseline as it is known: full attention and no persistent tokens.

    Args:
        name: "tiny" (bytes; what `make train` trains), "170m", "340m", "400m" or "760m".
        variant: of `titans_jax.config.Variant`.
        paper: whether the memory is the paper's as near as settings go (docs/choices.md): `bare_memory` of the
            preset's chunk, and the gate of Eq. 28. Deep memories are not stable so.
        **overrides: fields of `TitansConfig` that replace the preset's.

    Returns:
        The configuration.

    Raises:
        ValueError: for an unknown name or field, with the nearest one; an unknown variant; or a value that
            does not fit.
    """
    _require_known("name", name, PRESETS)
    require(variant in get_args(Variant), "variant", variant, f"one of {get_args(Variant)}")
    fields = tuple(field.name for field in dataclasses.fields(TitansConfig))
    for field in overrides:
        _require_known("override", field, fields)
    settings = _tiny() if name == "tiny" else _paper(SIZES[name], variant)
    if paper:
        settings |= {"memory": bare_memory(settings["memory"].chunk), "combine": "sigmoid"}
    if variant == "transformer":
        settings |= {"window": None, "persistent_tokens": 0}
    elif variant not in MEMORY_VARIANTS:
        settings |= {"persistent_tokens": 0}
    return TitansConfig(variant=variant, **(settings | overrides))


def bare_memory(chunk: int) -> MemoryConfig:
    """One memory a layer with the paper's equations as printed: all that this library adds to them is off.

    Args:
        chunk: tokens that share an anchor.
    """
    as_printed = {"step_scale": float(chunk), "bound": "none", "forget_bias": 0.0}
    return MemoryConfig(num_heads=1, chunk=chunk, **(RULE_OF_0_1 | as_printed))


def _require_known(field: str, value: str, known: tuple[str, ...]) -> None:
    """Raises a ValueError that says which known name the value is nearest to."""
    nearest = difflib.get_close_matches(str(value).lower(), known, n=1, cutoff=0.0)[0]
    require(value in known, field, value, f"one of {known}, of which {nearest!r} is the nearest")


def _tiny() -> dict[str, Any]:
    return {
        "vocab_size": 256,
        "dim": 128,
        "num_layers": 2,
        "num_heads": 2,
        "window": 64,
        "segment": 64,
        "feed_forward": 256,
        "memory": MemoryConfig(num_heads=2, chunk=64),
        "recurrence": RecurrenceConfig(num_heads=2),
    }


def _paper(size: Size, variant: Variant) -> dict[str, Any]:
    layers, feed_forward = size.layers[variant]
    return {
        "vocab_size": 32_000,
        "dim": size.dim,
        "num_layers": layers,
        "num_heads": size.dim // HEAD_DIM,
        "window": 512,
        "segment": 512,
        "persistent_tokens": 16,
        "feed_forward": feed_forward,
        "memory": MemoryConfig(num_heads=size.dim // MEMORY_HEAD_DIM, chunk=256),
        "recurrence": RecurrenceConfig(
            num_heads=size.dim // RECURRENT_HEAD_DIM.get(variant, HEAD_DIM),
            chunk=128,
            state_size=128,
        ),
        "dtype": "bfloat16",
        "remat": True,
    }
