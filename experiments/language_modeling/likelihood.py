"""How likely a model finds a continuation, and whether it is what the model would have said itself.

A document's start token stands before every context, as before every document in training. Requests are sorted by
length and padded at their end to a few lengths, so that little is wasted and little is compiled; every model here is
causal, so what stands behind a token does not change its prediction.
"""

import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Bool, Float, Int

from experiments.language_modeling.questions import Request
from titans_jax import Titans
from titans_jax.data import Tokenizer
from titans_jax.data.tokenizers import encode_after
from titans_jax.models.token_ids import require_token_ids
from titans_jax.typing import Array

#: Tokens of a batch, padding included.
BATCH_TOKENS = 8192
#: The shortest padded length; longer ones are 1, 1.5, 2, 3, 4, 6, ... times that.
SHORTEST = 64


class Likelihood(NamedTuple):
    """log p(continuation | context) in nats, and whether each of its tokens was the likeliest."""

    log_probability: float
    greedy: bool


class Encoded(NamedTuple):
    """Token ids of a request, start token first, and how many of the last are the continuation."""

    ids: Int[np.ndarray, " T"]
    scored: int


def encode(request: Request, tokenizer: Tokenizer) -> Encoded:
    """Encodes a request as lm-evaluation-harness does.

    Spaces at a context's end go to the continuation, and both are encoded as one text, of which the context's tokens
    are the first: a tokenizer may join what two texts would keep apart. Where a token would reach over from one to the
    other, none are the continuation's alone; then each is encoded by itself.

    Raises:
      ValueError: the continuation has no tokens, and so no probability.
    """
    context = request.context.rstrip()
    continuation = request.context[len(context) :] + request.continuation
    whole = tokenizer.encode((context + continuation).encode())
    before = tokenizer.encode(context.encode()) if context else whole[:0]
    after = whole[len(before) :]
    if not (len(after) and np.array_equal(whole[: len(before)], before)):
        after = encode_after(b"\n", continuation.encode(), tokenizer)
    if not len(after):
        raise ValueError(
            f"continuation must have at least one token, got {request.continuation!r} after {context[-20:]!r}"
        )
    start = np.array([tokenizer.start_token], np.int32)
    return Encoded(np.concatenate([start, before, after]), len(after))


def padded_length(length: int) -> int:
    """The length to which so many tokens are padded."""
    size = SHORTEST
    while size < length:
        if 3 * size // 2 >= length:
            return 3 * size // 2
        size *= 2
    return size


def likelihoods(
    model: Titans,
    tokenizer: Tokenizer,
    requests: Sequence[Request],
    batch_tokens: int = BATCH_TOKENS,
) -> list[Likelihood]:
    """Scores requests.

    Args:
      model: the language model.
      tokenizer: its tokenizer.
      requests: in any order.
      batch_tokens: tokens scored at once, if one sequence is not longer.

    Returns:
      What the model finds of each.

    Raises:
      ValueError: a continuation has no tokens, or an id is outside the model's vocabulary.
    """
    encoded = [encode(request, tokenizer) for request in requests]
    return token_likelihoods(model, encoded, batch_tokens)


def token_likelihoods(
    model: Titans, encoded: Sequence[Encoded], batch_tokens: int = BATCH_TOKENS
) -> list[Likelihood]:
    """`likelihoods` of requests that are token ids already.

    Raises:
      ValueError: one has no token to score, or none before those, or an id is outside the model's vocabulary.
    """
    for ids, scored in encoded:
        if not 0 < scored < len(ids):
            raise ValueError(
                f"scored must be from 1 to all ids but the first, {len(ids) - 1}, got {scored}"
            )
        require_token_ids("ids", ids[None], model.config.vocab_size)
    graphdef, params = nnx.split(model)
    by_length: dict[int, list[int]] = {}
    for index, one in enumerate(encoded):
        by_length.setdefault(padded_length(len(one.ids) - 1), []).append(index)
    results: list[Likelihood | None] = [None] * len(encoded)
    for length, indices in sorted(by_length.items()):
        rows = max(1, batch_tokens // length)
        for start in range(0, len(indices), rows):
            batch = indices[start : start + rows]
            # Always as many rows: the last batch is compiled with the others.
            tokens = np.zeros((rows, length + 1), np.int32)
            counts = np.zeros((rows, length), bool)
            for row, index in enumerate(batch):
                ids, scored = encoded[index]
                tokens[row, : len(ids)] = ids
                counts[row, len(ids) - 1 - scored : len(ids) - 1] = True
            sums, greedy = jax.device_get(_score(graphdef, params, tokens, counts))
            for row, index in enumerate(batch):
                results[index] = Likelihood(float(sums[row]), bool(greedy[row]))
    return [result for result in results if result is not None]


@functools.partial(jax.jit, static_argnames="graphdef")
def _score(
    graphdef: Any,
    params: Any,
    tokens: Int[Array, "B T+1"],
    counts: Bool[Array, "B T"],
) -> tuple[Float[Array, "B"], Bool[Array, "B"]]:
    """Per sequence the summed log probability of the targets that count, and whether all of them are the likeliest."""
    logits, _ = nnx.merge(graphdef, params)(tokens[:, :-1])
    targets = tokens[:, 1:]
    chosen = jnp.take_along_axis(logits, targets[..., None], axis=-1)[..., 0]
    log_probability = jnp.where(counts, chosen - jax.nn.logsumexp(logits, axis=-1), 0)
    greedy = (jnp.argmax(logits, axis=-1) == targets) | ~counts
    return jnp.sum(log_probability, axis=1), jnp.all(greedy, axis=1)
