"""How the next token is chosen from a model's logits.

In this order, as is usual: the repetition penalty (Keskar et al., 2019, arXiv 1909.05858), the temperature, the k
likeliest (Fan et al., 2018, arXiv 1805.04833), the nucleus (Holtzman et al., 2020, arXiv 1904.09751), a draw.

A `Sampling` is divided into `Filters`, which a program is compiled for, and `Numbers`, which it is given: another
temperature is another number, not another program.
"""

from __future__ import annotations

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
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


class Filters(NamedTuple):
    """What a program that samples is compiled for.

    Attributes:
        greedy: take the likeliest token.
        candidates: tokens among which the k likeliest are looked for, a power of two; 0 for no such filter.
        nucleus: whether `top_p` filters.
        penalty: whether the repetition penalty falls on what was seen.
        stops: places for stop tokens, a power of two; 0 for none.
    """

    greedy: bool
    candidates: int
    nucleus: bool
    penalty: bool
    stops: int


class Numbers(NamedTuple):
    """What a program that samples is given; see `Sampling`. Stop tokens are filled up with -1, which is no token."""

    temperature: Float[np.ndarray | Array, ""]
    top_k: Int[np.ndarray | Array, ""]
    top_p: Float[np.ndarray | Array, ""]
    repetition_penalty: Float[np.ndarray | Array, ""]
    stop_tokens: Int[np.ndarray | Array, "S"]


def divide(sampling: Sampling, vocab_size: int) -> tuple[Filters, Numbers]:
    """What of a sampling a program is compiled for, and what it is given.

    Args:
        sampling: how tokens are drawn.
        vocab_size: V; a `top_k` from there on filters nothing.
    """
    greedy = sampling.temperature == 0
    narrows = not greedy and 0 < sampling.top_k < vocab_size
    stops = _power_of_two(len(sampling.stop_tokens)) if sampling.stop_tokens else 0
    filters = Filters(
        greedy=greedy,
        candidates=min(_power_of_two(sampling.top_k), vocab_size) if narrows else 0,
        nucleus=not greedy and sampling.top_p < 1,
        penalty=sampling.repetition_penalty != 1,
        stops=stops,
    )
    stop_tokens = np.full(stops, -1, np.int32)
    stop_tokens[: len(sampling.stop_tokens)] = sampling.stop_tokens
    numbers = Numbers(
        np.asarray(sampling.temperature),
        np.asarray(sampling.top_k if narrows else 0, np.int32),
        np.asarray(sampling.top_p),
        np.asarray(sampling.repetition_penalty),
        stop_tokens,
    )
    return filters, numbers


def filtered_logits(
    logits: Float[Array, "B V"], seen: Bool[Array, "B V"], filters: Filters, numbers: Numbers
) -> Float[Array, "B V"]:
    """The logits from which a token is drawn: -inf where it cannot be.

    Args:
        logits: of the next token.
        seen: tokens that the repetition penalty falls on.
        filters: which filters run; not greedy.
        numbers: their numbers.
    """
    logits = _penalised(logits, seen, filters, numbers) / numbers.temperature.astype(logits.dtype)
    if filters.candidates:
        likeliest = jax.lax.top_k(logits, filters.candidates)[0]
        least = jnp.take(likeliest, numbers.top_k - 1, axis=-1)[:, None]
        logits = jnp.where(logits < least, -jnp.inf, logits)
    if filters.nucleus:
        ranked = jnp.sort(logits, axis=-1, descending=True)
        probabilities = jax.nn.softmax(ranked, axis=-1)
        likelier = jnp.cumsum(probabilities, axis=-1) - probabilities  # of all that rank before
        kept = likelier < numbers.top_p.astype(logits.dtype)
        least = jnp.min(jnp.where(kept, ranked, jnp.inf), axis=-1, keepdims=True)
        logits = jnp.where(logits < least, -jnp.inf, logits)
    return logits


def choose(
    logits: Float[Array, "B V"],
    seen: Bool[Array, "B V"],
    keys: Array,
    filters: Filters,
    numbers: Numbers,
) -> Int[Array, "B"]:
    """One token per sequence.

    Args:
        logits: of the next token.
        seen: tokens that the repetition penalty falls on.
        keys: one per sequence, so that a sequence draws what it would draw alone.
        filters: which filters run.
        numbers: their numbers.
    """
    if filters.greedy:
        best = jnp.argmax(_penalised(logits, seen, filters, numbers), axis=-1)
        return best.astype(jnp.int32)
    drawn = jax.vmap(jax.random.categorical)(keys, filtered_logits(logits, seen, filters, numbers))
    return drawn.astype(jnp.int32)


def _penalised(logits: Array, seen: Array, filters: Filters, numbers: Numbers) -> Array:
    if not filters.penalty:
        return logits
    penalty = numbers.repetition_penalty.astype(logits.dtype)
    return jnp.where(seen, jnp.where(logits > 0, logits / penalty, logits * penalty), logits)


def _power_of_two(least: int) -> int:
    return 1 << (least - 1).bit_length()
