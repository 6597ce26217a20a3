"""Pretraining's objectives, with models whose answers are known."""

import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.genomics.objectives import alphabet, both_sides, masked_loss, next_loss, scored
from tests.tolerances import OUTPUT_F64, assert_close
from titans_jax.data import NucleotideTokenizer

TOKENIZER = NucleotideTokenizer()
LETTERS = alphabet(TOKENIZER)
TABLE = jax.random.normal(jax.random.key(0), (7, 7), jnp.float64)


def bigram(tokens, state=None, **options):
    """A causal model: the logits depend on the token before, and on how many there were."""
    return TABLE[tokens] + jnp.cumsum(jnp.ones(tokens.shape), 1)[..., None] * TABLE[0], state


bigram.config = types.SimpleNamespace(vocab_size=TOKENIZER.vocab_size)  # type: ignore[attr-defined]


def test_alphabet():
    assert TOKENIZER.decode(LETTERS.complement) == b"TGCAN^_"
    assert LETTERS.unknown == (4,)
    assert alphabet(NucleotideTokenizer(keep_case=True)).unknown == (4, 9)


def test_next_nucleotide_is_scored_where_it_is_known():
    tokens = jnp.array([[0, 4, 2, 3], [1, 1, 4, 4]])
    lengths = jnp.array([4, 2])
    np.testing.assert_array_equal(
        scored(tokens, lengths, LETTERS), [[True, False, True, True], [True, True, False, False]]
    )
    inputs = np.array([[5, 0, 4, 2], [5, 1, 1, 4]])
    logs = jax.nn.log_softmax(bigram(jnp.asarray(inputs))[0])
    wanted = -np.mean([logs[0, 0, 0], logs[0, 2, 2], logs[0, 3, 3], logs[1, 0, 1], logs[1, 1, 1]])
    assert_close(next_loss(bigram, tokens, lengths, LETTERS), wanted, OUTPUT_F64)


def test_both_sides_agree_on_either_strand():
    """What is predicted of a place is what is predicted of its complement on the other strand."""
    ids = np.random.default_rng(0).integers(0, 4, (1, 9)).astype(np.int32)
    forward = both_sides(bigram, jnp.asarray(ids), jnp.array([9]), LETTERS)
    other = jnp.asarray(TOKENIZER.reverse_complement(ids))
    backward = both_sides(bigram, other, jnp.array([9]), LETTERS)
    assert_close(backward[:, ::-1][..., LETTERS.complement], forward, OUTPUT_F64)
    padded = jnp.concatenate([jnp.asarray(ids), jnp.full((1, 4), 4)], axis=1)
    assert_close(both_sides(bigram, padded, jnp.array([9]), LETTERS)[:, :9], forward, OUTPUT_F64)


def test_hidden_nucleotides_are_hidden_and_others_are_not_scored():
    seen = []

    def model(tokens, state=None, **options):
        seen.append(tokens)
        return jnp.broadcast_to(jnp.arange(7.0), (*tokens.shape, 7)), state

    tokens = jnp.full((50, 40), 2).at[:, 30:].set(4)
    lengths = jnp.full((50,), 35)
    loss = masked_loss(model, tokens, lengths, LETTERS, jax.random.key(1))
    shown = np.asarray(seen[0])
    assert (shown[:, 30:] == 4).all()  # neither N nor padding is hidden
    assert np.mean(shown[:, :30] == LETTERS.mask) == pytest.approx(0.12, abs=0.02)
    assert 0.005 < np.mean((shown[:, :30] != 2) & (shown[:, :30] != LETTERS.mask)) < 0.02
    symmetric = jnp.arange(7.0) + jnp.arange(7.0)[LETTERS.complement]
    assert_close(loss, -jax.nn.log_softmax(symmetric)[2], OUTPUT_F64)
