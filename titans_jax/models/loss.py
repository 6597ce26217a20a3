"""Next-token cross entropy."""

from __future__ import annotations

from collections.abc import Mapping

import jax
import jax.numpy as jnp

from titans_jax.models.language_model import Titans
from titans_jax.models.sequence_parallel import pipelined_sums, sequence_shards
from titans_jax.models.token_ids import require_token_ids
from titans_jax.typing import Array, Float, PyTree


def next_token_loss(
    model: Titans, batch: Mapping[str, Array]
) -> tuple[Float[Array, ""], dict[str, Float[Array, ""]]]:
    """Mean negative log likelihood of the targets, in nats per token that counts.

    Under a mesh with an axis "sequence" the tokens are shared out over it (sequence_parallel.py).

    Args:
        model: the language model.
        batch: "inputs" and "targets", token ids [B T]; "loss_mask", [B T], True at targets that count, or their
            weights; and, where documents are packed, "reset", bool [B T], True where a document starts. What stands in
            place of a target that does not count does not matter.

    Returns:
        The loss, and a dict with "loss" and "tokens" (how many targets counted), for averages over batches. The
        loss is NaN where a target that counts is outside the vocabulary.

    Raises:
        ValueError: an array's shape or dtype does not fit, or an id is outside the vocabulary and its value is known
            (not inside a compiled function).
    """
    counting = jnp.where(batch["loss_mask"], batch["targets"], 0)
    require_token_ids("targets", counting, model.config.vocab_size)
    if sequence_shards() > 1:
        nats, tokens = pipelined_sums(model, batch, _sums)
    else:
        logits, _ = model(batch["inputs"], reset=batch.get("reset"))
        nats, tokens = _sums(logits, batch)
    # A batch without targets has loss 0, not NaN.
    loss = nats / jnp.maximum(tokens, 1)
    return loss, {"loss": loss, "tokens": tokens}


def carried_loss(
    model: Titans, batch: Mapping[str, Array], state: PyTree
) -> tuple[Float[Array, ""], dict[str, Float[Array, ""]], PyTree]:
    """`next_token_loss` of a batch whose rows go on where `state` stopped, at a chunk's (MAC: a segment's) start.

    Args:
        model: the language model.
        batch: as there, with "reset": True where a row starts anew.
        state: after the tokens before these.

    Returns:
        The loss, the dict of `next_token_loss`, and the state after the batch.

    Raises:
        ValueError: as `next_token_loss`.
    """
    counting = jnp.where(batch["loss_mask"], batch["targets"], 0)
    require_token_ids("targets", counting, model.config.vocab_size)
    logits, state = model(batch["inputs"], state, reset=batch["reset"], aligned=True)
    nats, tokens = _sums(logits, batch)
    loss = nats / jnp.maximum(tokens, 1)
    return loss, {"loss": loss, "tokens": tokens}, state


def _sums(
    logits: Float[Array, "B T V"], batch: Mapping[str, Array]
) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """Nats of all targets that count, and their number."""
    # Not a gather: the vocabulary may be shared out, and a sum over it is what compilers can share out too.
    ids = jax.lax.broadcasted_iota(jnp.int32, logits.shape, logits.ndim - 1)
    targets, mask = batch["targets"], batch["loss_mask"]
    chosen = jnp.sum(jnp.where(ids == targets[..., None], logits, 0), axis=-1)
    known = (targets >= 0) & (targets < logits.shape[-1])
    chosen = jnp.where(known | (mask == 0), chosen, jnp.nan)
    counts = mask.astype(logits.dtype)
    nats = (jax.nn.logsumexp(logits, axis=-1) - chosen) * counts
    return jnp.sum(nats), jnp.sum(counts)
