"""Model sizes by name: `tiny`, and the paper's 170M, 340M, 400M and 760M.

The paper gives parameter counts and no shapes. The rule here, the same for every variant: the model dimension
goes with the name, heads of attention and memory are 128 wide (a matrix unit's width), the feed-forward is
about 8/3 of the dimension, and the depth is what then brings the parameters, with a vocabulary of 32,000
and tied embeddings, nearest to the name. So a variant whose mixer is larger is less deep.
"""

from __future__ import annotations

import dataclasses
import difflib
from typing import Any, get_args

from titans_jax.config import MemoryConfig, TitansConfig, Variant, require

HEAD_DIM = 128


@dataclasses.dataclass(frozen=True)
class _Size:
    dim: int
    blocks: dict[str, tuple[int, int]]  # by variant: number of blocks, feed-forward width


_PAPER_SIZES = {
    "170m": _Size(
        dim=768,
        blocks={
            "mac": (14, 2048),
            "mag": (15, 1920),
            "mal": (14, 2048),
            "lmm": (18, 2048),
            "transformer": (20, 2176),
        },
    ),
    "340m": _Size(
        dim=1024,
        blocks={
            "mac": (17, 2560),
            "mag": (18, 2688),
            "mal": (17, 2560),
            "lmm": (22, 2688),
            "transformer": (24, 2816),
        },
    ),
    "400m": _Size(
        dim=1024,
        blocks={
            "mac": (20, 2688),
            "mag": (21, 2816),
            "mal": (20, 2688),
            "lmm": (26, 2688),
            "transformer": (29, 2816),
        },
    ),
    "760m": _Size(
        dim=1536,
        blocks={
            "mac": (17, 4224),
            "mag": (18, 4224),
            "mal": (17, 4224),
            "lmm": (23, 3968),
            "transformer": (25, 4096),
        },
    ),
}

PRESETS = ("tiny", *_PAPER_SIZES)


def preset(name: str, variant: str = "mac", **overrides: Any) -> TitansConfig:
    """The configuration of a named size.

    Args:
        name: one of `PRESETS`.
        variant: "mac", "mag", "mal", "lmm" or "transformer".
        **overrides: fields of `TitansConfig` to set differently.

    Returns:
        The configuration.

    Raises:
        ValueError: if there is no such preset, variant or field, or a value does not fit.
    """
    require(name in PRESETS, "name", name, f"one of {PRESETS}")
    require(variant in get_args(Variant), "variant", variant, f"one of {get_args(Variant)}")
    fields = [field.name for field in dataclasses.fields(TitansConfig)]
    for key in overrides:
        nearest = difflib.get_close_matches(key, fields) or fields
        require(key in fields, "override", key, f"a field of TitansConfig, such as {nearest}")
    settings = _tiny() if name == "tiny" else _paper_size(_PAPER_SIZES[name], variant)
    if variant == "transformer":  # the baseline attends to everything and has no memory of its own
        settings |= {"window": None, "persistent_tokens": 0}
    return TitansConfig(**{"variant": variant, **settings, **overrides})


def _tiny() -> dict[str, Any]:
    """A byte model that trains in minutes on two CPU cores."""
    return {
        "vocab_size": 256,
        "dim": 128,
        "num_layers": 3,
        "num_heads": 2,
        "window": 64,
        "segment": 64,
        "persistent_tokens": 4,
        "feed_forward": 352,
        "memory": MemoryConfig(num_heads=2, chunk=64),
    }


def _paper_size(size: _Size, variant: str) -> dict[str, Any]:
    num_layers, feed_forward = size.blocks[variant]
    heads = size.dim // HEAD_DIM
    return {
        "vocab_size": 32000,
        "dim": size.dim,
        "num_layers": num_layers,
        "num_heads": heads,
        "window": 512,
        "segment": 512,
        "persistent_tokens": 16,
        "feed_forward": feed_forward,
        "memory": MemoryConfig(num_heads=heads, chunk=128),
        "dtype": "bfloat16",
        "remat": True,
    }
