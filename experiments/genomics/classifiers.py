"""The models that are compared: LMM, language models of other mixers with as many parameters, and the published CNN.

All but the CNN classify by the mean of their last stream (titans_jax.models.classifier). Where a mixer has short
convolutions, they have as many taps as the CNN's.
"""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import Any

import jax
from flax import nnx

from experiments.genomics.cnn import TAPS, GenomicCNN
from titans_jax.config import (
    RULE_OF_0_1,
    MemoryConfig,
    RecurrenceConfig,
    TitansConfig,
    Variant,
)
from titans_jax.fields import check_fields, field, positive_int, require
from titans_jax.inference.pretrained import from_pretrained
from titans_jax.matching import match_parameters
from titans_jax.models.classifier import SequenceClassifier

#: A language model that was trained before, of any variant.
PRETRAINED = "pretrained"
#: Names of the models on pages, in the order in which they are trained.
TITLES = {
    "lmm": "LMM",
    "cnn": "CNN of GenomicBenchmarks",
    "transformer": "Transformer++",
    "mamba2": "Mamba-2",
    "gated_deltanet": "Gated DeltaNet",
    PRETRAINED: "pretrained language model",
}
#: Baselines that are matched to LMM.
MATCHED = ("transformer", "mamba2", "gated_deltanet")


@dataclasses.dataclass(frozen=True)
class Size:
    """Of the language models.

    Attributes:
        dim: model dimension, of which heads have at most 32 features.
        layers: blocks.
    """

    dim: int = field(32, positive_int)
    layers: int = field(1, positive_int)

    def __post_init__(self) -> None:
        check_fields(self)


def language_model(variant: Variant, vocab_size: int, size: Size) -> TitansConfig:
    """LMM, or a baseline with its parameters to 3 %.

    Args:
        variant: "lmm" or one of `MATCHED`.
        vocab_size: of the tokenizer.
        size: of LMM.
    """
    heads = max(1, size.dim // 32)
    config = TitansConfig(
        variant="lmm",
        vocab_size=vocab_size,
        dim=size.dim,
        num_layers=size.layers,
        num_heads=max(2, heads),
        window=None,
        persistent_tokens=0,
        feed_forward=2 * size.dim,
        memory=MemoryConfig(num_heads=heads, expansion=1, chunk=16, conv_width=TAPS, **RULE_OF_0_1),
        recurrence=RecurrenceConfig(num_heads=max(2, heads), state_size=16, conv_width=TAPS),
    )
    if variant == "lmm":
        return config
    return match_parameters(dataclasses.replace(config, variant=variant), config, multiple=2)


def build(
    name: str, vocab_size: int, length: int, num_classes: int, size: Size, seed: int
) -> nnx.Module:
    """A model with its initial parameters.

    Args:
        name: one of `TITLES`.
        vocab_size: of the tokenizer.
        length: of the sequences, filled up.
        num_classes: classes.
        size: of the language models.
        seed: of the parameters.
    """
    rngs = nnx.Rngs(seed)
    if name == "cnn":
        return GenomicCNN(vocab_size, length, num_classes, rngs=rngs)
    require(name in TITLES, "model", name, f"one of {', '.join(TITLES)}")
    config = language_model(name, vocab_size, size)  # type: ignore[arg-type]
    return SequenceClassifier(config, num_classes, rngs=rngs)


def from_language_model(
    folder: str | Path, vocab_size: int, num_classes: int, seed: int
) -> SequenceClassifier:
    """A classifier whose language model was pretrained (pretrain.py).

    Args:
        folder: that `save_pretrained` wrote.
        vocab_size: of the tokenizer.
        num_classes: classes.
        seed: of the second head.

    Raises:
        ValueError: if it was trained with another vocabulary.
    """
    trained = from_pretrained(folder)
    found = trained.config.vocab_size
    require(
        found == vocab_size,
        f"vocabulary of {folder}",
        found,
        f"{vocab_size}, the tokenizer's; --keep_case must be as it was in pretraining",
    )
    model = SequenceClassifier(trained.config, num_classes, rngs=nnx.Rngs(seed))
    nnx.update(model, nnx.state(trained))
    return model


def count(model: Any) -> int:
    """Parameters of a model, batch norms' statistics not counted."""
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(nnx.state(model, nnx.Param)))
