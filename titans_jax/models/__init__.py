"""The four Titans and the Transformer++ baseline as one language model, and its loss."""

from titans_jax.models.classifier import SequenceClassifier
from titans_jax.models.language_model import Titans
from titans_jax.models.loss import next_token_loss

__all__ = ["SequenceClassifier", "Titans", "next_token_loss"]
