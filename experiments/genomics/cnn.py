"""The CNN of GenomicBenchmarks (Gresova et al. 2023), the baseline of the paper's Table 4.

Three times (convolution of 8 taps, batch norm, ReLU, max-pooling of 2) with 16, 8 and 4 features over embeddings of
100, then two linear layers with 512 features and nothing between them, as published. It needs sequences of one length.
The one deviation: logits go into the cross entropy, not their sigmoid a second time.

Convolutions are written as one matrix product over windows, the first with the embedding multiplied into its kernel:
on a CPU that is many times as fast as XLA's convolution of 100 features, and gives the same numbers.
"""

from __future__ import annotations

import itertools

import jax
import jax.numpy as jnp
from flax import nnx

from titans_jax.fields import require, whole
from titans_jax.typing import Array, Bool, Float, Int

EMBEDDING, FEATURES, TAPS, HIDDEN = 100, (16, 8, 4), 8, 512


def pooled_length(length: int) -> int:
    """Places that are left of a sequence after the three layers."""
    for _ in FEATURES:
        length = (length - TAPS + 1) // 2
    return length


class GenomicCNN(nnx.Module):
    """The network; `train()` and `eval()` switch its batch norms."""

    def __init__(self, vocab_size: int, length: int, num_classes: int, *, rngs: nnx.Rngs):
        """Makes the parameters.

        Args:
            vocab_size: tokens of the vocabulary.
            length: of every sequence.
            num_classes: classes, at least two.
            rngs: source of the initial parameters.

        Raises:
            ValueError: if nothing would be left of so short a sequence.
        """
        num_classes = whole("an integer of at least 2", 2)("num_classes", num_classes)
        places = pooled_length(length)
        require(places > 0, "length", length, "at least 57: three convolutions with pooling")
        widths = (EMBEDDING, *FEATURES)
        self.embedding = nnx.Param(jax.random.normal(rngs.params(), (vocab_size, EMBEDDING)))
        self.filters = nnx.List(
            nnx.Param(_uniform(rngs.params(), (TAPS, before, after)))
            for before, after in itertools.pairwise(widths)
        )
        # A bias before a batch norm, which the published network has, changes nothing.
        self.norms = nnx.List(nnx.BatchNorm(width, momentum=0.9, rngs=rngs) for width in FEATURES)
        self.hidden = nnx.Linear(places * FEATURES[-1], HIDDEN, rngs=rngs)
        self.classifier = nnx.Linear(HIDDEN, num_classes, rngs=rngs)

    def classify(
        self, tokens: Int[Array, "B T"], *, mask: Bool[Array, "B T"] | None = None
    ) -> Float[Array, "B classes"]:
        """The logits of the classes.

        Args:
            tokens: sequences, filled with N where they are shorter than the others.
            mask: not used; the network sees N.
        """
        del mask
        embedding, first = self.embedding[...], self.filters[0][...]
        x = jax.nn.one_hot(tokens, embedding.shape[0], dtype=embedding.dtype)  # [B T V]
        kernels = [jnp.einsum("ve,tef->tvf", embedding, first)]
        kernels += [kernel[...] for kernel in self.filters[1:]]
        for kernel, norm in zip(kernels, self.norms, strict=True):
            x = _halved(nnx.relu(norm(_convolution(x, kernel))))
        return self.classifier(self.hidden(x.reshape(x.shape[0], -1)))


def _uniform(key: Array, shape: tuple[int, int, int]) -> Array:
    """The initial weights of torch's convolutions, which were the published network's."""
    bound = (shape[0] * shape[1]) ** -0.5
    return jax.random.uniform(key, shape, minval=-bound, maxval=bound)


def _convolution(
    x: Float[Array, "B T before"], kernel: Float[Array, "taps before after"]
) -> Float[Array, "B places after"]:
    places = x.shape[1] - TAPS + 1
    windows = jnp.concatenate([x[:, tap : tap + places] for tap in range(TAPS)], axis=-1)
    return windows @ kernel.reshape(-1, kernel.shape[-1])


def _halved(x: Float[Array, "B T F"]) -> Float[Array, "B half F"]:
    """The maximum of each two neighbours."""
    half = x.shape[1] // 2
    pairs = x[:, : 2 * half].reshape(x.shape[0], half, 2, -1)
    # Not a reduction: its gradient looks for places equal to the maximum, and there is none, and 0 / 0, where XLA
    # computes x a second time with other rounding.
    return jnp.maximum(pairs[:, :, 0], pairs[:, :, 1])
