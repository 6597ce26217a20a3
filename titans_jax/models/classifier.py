"""A classifier of sequences: a language model of any variant with a second head, over the mean of its last stream.

The paper's DNA experiments (section 5.7) fine-tune on whole sequences and do not say how these are pooled. Here the
final norm is applied to the residual stream of every token and the mean over the tokens that are no padding goes
through one linear layer. The blocks are causal; a mean, unlike the last token, has short paths to every token.
"""

from __future__ import annotations

import jax.numpy as jnp
from flax import nnx

from titans_jax.config import TitansConfig
from titans_jax.fields import whole
from titans_jax.layers.linear import linear
from titans_jax.layers.norms import statistics_dtype
from titans_jax.models.language_model import Titans
from titans_jax.typing import Array, Bool, Float, Int


class SequenceClassifier(Titans):
    """A language model that can also say to which class a sequence belongs.

    Its parameters have the language model's names, so that what was pretrained as one starts the other; calling it
    still predicts the next token.
    """

    def __init__(self, config: TitansConfig, num_classes: int, *, rngs: nnx.Rngs):
        """Makes the language model and the head.

        Args:
            config: of the language model.
            num_classes: classes, at least two.
            rngs: source of the initial parameters.

        Raises:
            ValueError: if there are fewer than two classes.
        """
        num_classes = whole("an integer of at least 2", 2)("num_classes", num_classes)
        super().__init__(config, rngs=rngs)
        dtype = config.activation_dtype
        self.classifier = linear(config.dim, num_classes, dtype, rngs=rngs)
        self.classifier_bias = nnx.Param(jnp.zeros((num_classes,), statistics_dtype(dtype)))

    def classify(
        self, tokens: Int[Array, "B T"], *, mask: Bool[Array, "B T"] | None = None
    ) -> Float[Array, "B classes"]:
        """The logits of the classes.

        Args:
            tokens: sequences from their start.
            mask: False where a token is padding, which must follow the sequence; None where there is none.

        Returns:
            Logits, in float32 at least.
        """
        # The blocks are causal: padding behind a sequence reaches none of its tokens, so they need no mask.
        x, _ = self.residual_stream(tokens)
        pooled = masked_mean(self.norm(x), mask)
        bias = self.classifier_bias[...]
        return self.classifier(pooled.astype(x.dtype)).astype(bias.dtype) + bias


def masked_mean(x: Float[Array, "B T D"], mask: Bool[Array, "B T"] | None) -> Float[Array, "B D"]:
    """The mean over the tokens that are no padding, in float32 at least; zero for a row without one.

    Args:
        x: activations.
        mask: False where a token is padding; None where there is none.
    """
    wide = x.astype(statistics_dtype(x.dtype))
    if mask is None:
        return jnp.mean(wide, axis=1)
    counts = jnp.maximum(jnp.sum(mask, axis=1, keepdims=True), 1)
    # Not a product: padding may hold what is not finite.
    return jnp.sum(jnp.where(mask[..., None], wide, 0), axis=1) / counts
