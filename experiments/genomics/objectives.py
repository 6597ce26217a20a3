"""The two objectives of pretraining on DNA: the next nucleotide, and hidden nucleotides.

The language models are causal. For hidden nucleotides one reads the sequence and, with the same parameters, its reverse
complement; the logits of a place are the sum of both readings, the second in terms of the complement. So each hidden
nucleotide is predicted from both sides, and equally on either strand.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from titans_jax.data.nucleotides import NucleotideTokenizer
from titans_jax.models.language_model import Titans
from titans_jax.models.loss import next_token_loss
from titans_jax.typing import Array, Bool, Float, Int

Objective = Literal["next", "masked"]
#: Of the nucleotides: hidden, and of these replaced by the mask token and by another nucleotide (BERT's fractions).
HIDDEN, MASKED, REPLACED = 0.15, 0.8, 0.1


class Alphabet(NamedTuple):
    """What the objectives need of a tokenizer.

    Attributes:
        complement: id of each id's complement.
        start: the token before every sequence.
        mask: the token of a hidden nucleotide.
        unknown: ids that are no target: N.
    """

    complement: Int[np.ndarray, "V"]
    start: int
    mask: int
    unknown: tuple[int, ...]


def alphabet(tokenizer: NucleotideTokenizer) -> Alphabet:
    """Of a tokenizer."""
    ids = np.arange(tokenizer.vocab_size, dtype=np.int32)
    unknown = tuple(index for index, letter in enumerate(tokenizer.letters) if letter in b"Nn")
    complement = tokenizer.reverse_complement(ids)[::-1]
    return Alphabet(complement, tokenizer.start_token, tokenizer.mask_token, unknown)


def scored(
    tokens: Int[Array, "B T"], lengths: Int[Array, "B"], letters: Alphabet
) -> Bool[Array, "B T"]:
    """The places that can be targets: nucleotides that are known and no padding."""
    inside = jnp.arange(tokens.shape[1]) < lengths[:, None]
    return inside & ~jnp.isin(tokens, jnp.array(letters.unknown))


def next_loss(
    model: Titans, tokens: Int[Array, "B T"], lengths: Int[Array, "B"], letters: Alphabet
) -> Float[Array, ""]:
    """Mean negative log likelihood of every nucleotide given those before it, in nats.

    Args:
        model: the language model.
        tokens: sequences, filled up behind.
        lengths: of the sequences.
        letters: of the tokenizer.
    """
    start = jnp.full((tokens.shape[0], 1), letters.start, tokens.dtype)
    inputs = jnp.concatenate([start, tokens[:, :-1]], axis=1)
    batch = {"inputs": inputs, "targets": tokens, "loss_mask": scored(tokens, lengths, letters)}
    return next_token_loss(model, batch)[0]


def masked_loss(
    model: Titans,
    tokens: Int[Array, "B T"],
    lengths: Int[Array, "B"],
    letters: Alphabet,
    key: Array,
) -> Float[Array, ""]:
    """Mean negative log likelihood of hidden nucleotides, in nats.

    Args:
        model: the language model.
        tokens: sequences, filled up behind.
        lengths: of the sequences.
        letters: of the tokenizer.
        key: draws what is hidden.
    """
    where, how, what = jax.random.split(key, 3)
    hidden = (jax.random.uniform(where, tokens.shape) < HIDDEN) & scored(tokens, lengths, letters)
    drawn = jax.random.uniform(how, tokens.shape)
    other = jnp.where(
        drawn < MASKED + REPLACED,
        jax.random.randint(what, tokens.shape, 0, 4, tokens.dtype),
        tokens,
    )
    seen = jnp.where(hidden, jnp.where(drawn < MASKED, letters.mask, other), tokens)
    logs = jax.nn.log_softmax(both_sides(model, seen, lengths, letters))
    chosen = jnp.take_along_axis(logs, tokens[..., None], axis=-1)[..., 0]
    return -jnp.sum(jnp.where(hidden, chosen, 0)) / jnp.maximum(jnp.sum(hidden), 1)


def both_sides(
    model: Titans, tokens: Int[Array, "B T"], lengths: Int[Array, "B"], letters: Alphabet
) -> Float[Array, "B T V"]:
    """The sum of the logits of both strands' readings, in the places and letters of the sequence.

    Args:
        model: the language model.
        tokens: sequences, filled up behind.
        lengths: of the sequences.
        letters: of the tokenizer.
    """
    complement = jnp.asarray(letters.complement)
    # Place t of a sequence is place length - 1 - t of its reverse complement; behind it lies padding in both.
    places = jnp.maximum(lengths[:, None] - 1 - jnp.arange(tokens.shape[1]), 0)
    other = jnp.take_along_axis(complement[tokens], places, axis=1)
    forward, _ = model(tokens)
    backward, _ = model(other)
    backward = jnp.take_along_axis(backward, places[..., None], axis=1)
    return forward + backward[..., complement]
