"""Next-token cross entropy."""

from __future__ import annotations

from collections.abc import Mapping

import jax
import jax.numpy as jnp

from titans_jax.models.language_model import Titans
from titans_jax.typing import Array, Float


def next_token_loss(
    model: Titans, batch: Mapping[str, Array]
) -> tuple[Float[Array, ""], dict[str, Float[Array, ""]]]:
    """Mean negative log likelihood of the targets, in nats per token that counts.

    Args:
        model: the language model.
        batch: "inputs" and "targets", token ids [B T]; "loss_mask", bool [B T], True at targets that count;
            and, where documents are packed, "reset", bool [B T], True where a document starts.

    Returns:
        The loss, and a dict with "loss" and "tokens" (how many targets counted), for averages over batches.
    """
    logits, _ = model(batch["inputs"], reset=batch.get("reset"))
    log_likelihood = jnp.take_along_axis(
        jax.nn.log_softmax(logits, axis=-1), batch["targets"][..., None], axis=-1
    )[..., 0]
    counts = batch["loss_mask"].astype(logits.dtype)
    tokens = jnp.sum(counts)
    # A batch without targets has loss 0, not NaN.
    loss = -jnp.sum(log_likelihood * counts) / jnp.maximum(tokens, 1)
    return loss, {"loss": loss, "tokens": tokens}
