"""How the next token is chosen from a model's logits.

In this order, as is usual: the repetition penalty (Keskar et al., 2019, arXiv 1909.05858), the temperature, the k
likeliest (Fan et al., 2018, arXiv 1805.04833), the nucleus (Holtzman et al., 2020, arXiv 1904.09751), a draw.
"""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
from jaxtyping import Bool, Float, Int

from titans_jax.fields import check_fields, field, non_negative, number, positive, several, whole
from titans_jax.typing import Array


@dataclasses.dataclass(frozen=True)
class Sampling:
    """How tokens are drawn.

    Attributes:
        temperature: divides the logits; 0 takes the likeliest token, and the two filters do not matter.
        top_k: draw from the k likeliest tokens; 0 from all. Ties with the k-th stay in.
        top_p: draw from the fewest tokens whose probabilities sum to at least p; 1 from all.
        repetition_penalty: logits of tokens that the stream has seen are divided by it where positive and
            multiplied by it where negative; 1 changes nothing.
        stop_tokens: a sequence ends after any of these.
    """

    temperature: float = field(1.0, non_negative)
    top_k: int = field(0, whole("an integer, 0 for all tokens", 0))
    top_p: float = field(1.0, number("above 0 and at most 1", above=0, most=1))
    repetition_penalty: float = field(1.0, positive)
    stop_tokens: tuple[int, ...] = field((), several(whole("token ids", 0), least=0))

    def __post_init__(self) -> None:
        check_fields(self)


GREEDY = Sampling(temperature=0.0)


def filtered_logits(
    logits: Float[Array, "B V"], seen: Bool[Array, "B V"], sampling: Sampling
) -> Float[Array, "B V"]:
    """The logits from which a token is drawn: -inf where it cannot be.

    Args:
        logits: of the next token.
        seen: tokens that the repetition penalty falls on.
        sampling: with a temperature above 0.
    """
    logits = _penalised(logits, seen, sampling.repetition_penalty) / sampling.temperature
    if 0 < sampling.top_k < logits.shape[-1]:
        least = jax.lax.top_k(logits, sampling.top_k)[0][:, -1:]
        logits = jnp.where(logits < least, -jnp.inf, logits)
    if sampling.top_p < 1:
        ranked = jnp.sort(logits, axis=-1, descending=True)
        probabilities = jax.nn.softmax(ranked, axis=-1)
        likelier = jnp.cumsum(probabilities, axis=-1) - probabilities  # of all that rank before
        kept = likelier < sampling.top_p
        least = jnp.min(jnp.where(kept, ranked, jnp.inf), axis=-1, keepdims=True)
        logits = jnp.where(logits < least, -jnp.inf, logits)
    return logits


def choose(
    logits: Float[Array, "B V"], seen: Bool[Array, "B V"], keys: Array, sampling: Sampling
) -> Int[Array, "B"]:
    """One token per sequence.

    Args:
        logits: of the next token.
        seen: tokens that the repetition penalty falls on.
        keys: one per sequence, so that a sequence draws what it would draw alone.
        sampling: how.
    """
    if sampling.temperature == 0:
        best = jnp.argmax(_penalised(logits, seen, sampling.repetition_penalty), axis=-1)
        return best.astype(jnp.int32)
    drawn = jax.vmap(jax.random.categorical)(keys, filtered_logits(logits, seen, sampling))
    return drawn.astype(jnp.int32)


def _penalised(logits: Array, seen: Array, penalty: float) -> Array:
    if penalty == 1:
        return logits
    return jnp.where(seen, jnp.where(logits > 0, logits / penalty, logits * penalty), logits)
