"""Next-token cross entropy, at a stream's start or after a past that is only remembered.

State passing (Ruiz & Gu 2025, arXiv 2507.02782): a recurrent model that was only trained from fresh states need not
keep what it knows in longer sequences, because its state leaves the region it was trained in. Sequences that start from
the state after other tokens, through which no gradient goes, teach it to, at the price of a forward pass.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from titans_jax.config import require
from titans_jax.models.language_model import Titans
from titans_jax.models.sequence_parallel import pipelined_sums, sequence_shards
from titans_jax.typing import Array, Float, Int


def next_token_loss(
    model: Titans, batch: Mapping[str, Array]
) -> tuple[Float[Array, ""], dict[str, Float[Array, ""]]]:
    """Mean negative log likelihood of the targets, in nats per token that counts.

    Under a mesh with an axis "sequence" the tokens are shared out over it (sequence_parallel.py).

    Args:
        model: the language model.
        batch: "inputs" and "targets", token ids [B T]; "loss_mask", bool [B T], True at targets that count;
            where documents are packed, "reset", bool [B T], True where a document starts; and, for state passing,
            "before", token ids [1 P]: what every sequence comes after. P is a multiple of the model's `alignment`, and
            full attention takes none.

    Returns:
        The loss, and a dict with "loss" and "tokens" (how many targets counted), for averages over batches.

    Raises:
        ValueError: "before" has a length that does not fit, or is given with full attention or under a mesh with an
            axis "sequence".
    """
    if sequence_shards() > 1:
        require("before" not in batch, "before", "given", "absent where sequences are shared out")
        nats, tokens = pipelined_sums(model, batch, _sums)
    elif "before" in batch:
        inputs = batch["inputs"]
        state = _state_after(model, batch["before"], inputs.shape[0])
        logits, _ = model(inputs, state, reset=batch.get("reset"), aligned=True)
        nats, tokens = _sums(logits, batch)
    else:
        logits, _ = model(batch["inputs"], reset=batch.get("reset"))
        nats, tokens = _sums(logits, batch)
    # A batch without targets has loss 0, not NaN.
    loss = nats / jnp.maximum(tokens, 1)
    return loss, {"loss": loss, "tokens": tokens}


def _state_after(model: Titans, before: Int[Array, "1 P"], batch_size: int) -> Any:
    """The state of as many equal streams after `before`, which no gradient goes through."""
    config, length = model.config, before.shape[1]
    require(before.shape[0] == 1, "before's sequences", before.shape[0], "1, shared by the batch")
    unit = config.alignment
    require(length % unit == 0, "before's length", length, f"a multiple of {unit}")
    full = config.variant == "transformer" and config.window is None
    require(not full, "before", "given", "absent for full attention, whose state has no fixed size")
    _, state = model(before)
    # Leaves are [L 1 ...].
    return jax.tree.map(
        lambda leaf: jnp.repeat(jax.lax.stop_gradient(leaf), batch_size, axis=1), state
    )


def _sums(
    logits: Float[Array, "B T V"], batch: Mapping[str, Array]
) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """Nats of all targets that count, and their number."""
    # Not a gather: the vocabulary may be shared out, and a sum over it is what compilers can share out too.
    ids = jax.lax.broadcasted_iota(jnp.int32, logits.shape, logits.ndim - 1)
    chosen = jnp.sum(jnp.where(ids == batch["targets"][..., None], logits, 0), axis=-1)
    counts = batch["loss_mask"].astype(logits.dtype)
    nats = (jax.nn.logsumexp(logits, axis=-1) - chosen) * counts
    return jnp.sum(nats), jnp.sum(counts)
