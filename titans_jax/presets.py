"""Presets: the paper's sizes (§5.1), and one that trains on a laptop.

Sizes are named by their parameters with a vocabulary of 32,000 and tied embeddings; a test holds every
variant within 5 % of its name. Memory and attention heads have 128 features, because the matrix units of
TPUs are 128 or 256 wide. The paper gives neither depths nor widths; layers and feed-forward widths here are
those nearest to 8/3 of the model dimension that reach the size.
"""

from __future__ import annotations

import difflib
from typing import Any, NamedTuple

from titans_jax.config import MemoryConfig, TitansConfig, Variant

HEAD_DIM = 128


class Size(NamedTuple):
    """Model dimension, and per variant its number of layers and its feed-forward width."""

    dim: int
    layers: dict[str, tuple[int, int]]


SIZES = {
    "170m": Size(
        768,
        {
            "mac": (14, 2048),
            "mag": (15, 1920),
            "mal": (14, 2048),
            "lmm": (18, 2048),
            "transformer": (20, 2176),
        },
    ),
    "340m": Size(
        1024,
        {
            "mac": (17, 2560),
            "mag": (18, 2688),
            "mal": (17, 2560),
            "lmm": (22, 2688),
            "transformer": (24, 2816),
        },
    ),
    "400m": Size(
        1024,
        {
            "mac": (20, 2688),
            "mag": (21, 2816),
            "mal": (20, 2688),
            "lmm": (26, 2688),
            "transformer": (29, 2816),
        },
    ),
    "760m": Size(
        1536,
        {
            "mac": (17, 4224),
            "mag": (18, 4224),
            "mal": (17, 4224),
            "lmm": (23, 3968),
            "transformer": (25, 4096),
        },
    ),
}


def preset(name: str, variant: Variant = "mac", **overrides: Any) -> TitansConfig:
    """A configuration by name.

    Args:
        name: "tiny" (bytes, about half a million parameters), "170m", "340m", "400m" or "760m".
        variant: "mac", "mag", "mal", "lmm" or "transformer".
        overrides: fields of `TitansConfig` that replace the preset's.

    Raises:
        ValueError: for an unknown name, with the nearest one; or a field that does not fit.
    """
    if name == "tiny":
        fields = _tiny()
    elif name in SIZES:
        fields = _paper(SIZES[name], variant)
    else:
        near = difflib.get_close_matches(str(name), ["tiny", *SIZES], n=1, cutoff=0.0)[0]
        raise ValueError(
            f"name must be one of {['tiny', *SIZES]}, got {name!r}; the nearest is {near!r}"
        )
    return TitansConfig(variant=variant, **(fields | overrides))


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
    }


def _paper(size: Size, variant: str) -> dict[str, Any]:
    if variant not in size.layers:
        raise ValueError(f"variant must be one of {tuple(size.layers)}, got {variant!r}")
    layers, feed_forward = size.layers[variant]
    heads = size.dim // HEAD_DIM
    transformer = variant == "transformer"
    return {
        "vocab_size": 32_000,
        "dim": size.dim,
        "num_layers": layers,
        "num_heads": heads,
        "window": None if transformer else 512,
        "segment": 512,
        "persistent_tokens": 0 if transformer else 16,
        "feed_forward": feed_forward,
        "memory": MemoryConfig(num_heads=heads, chunk=128),
        "dtype": "bfloat16",
        "remat": True,
    }
