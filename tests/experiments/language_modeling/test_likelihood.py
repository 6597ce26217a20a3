"""Log probabilities of continuations, against a model whose probabilities are known."""

import math

import numpy as np
import pytest
from flax import nnx

from experiments.language_modeling.likelihood import (
    Encoded,
    encode,
    likelihoods,
    padded_length,
    token_likelihoods,
)
from experiments.language_modeling.questions import Request
from tests.experiments.language_modeling.toy_model import EVEN, LIKELY, UNLIKELY, Bigram
from tests.tolerances import OUTPUT_F64
from titans_jax import MemoryConfig, Titans, TitansConfig
from titans_jax.data import ByteTokenizer
from titans_jax.inference import score

BYTES = ByteTokenizer()


def test_log_probability_and_greed_are_those_of_the_continuation_alone():
    requests = [
        Request("a", "b"),  # likeliest
        Request("xa", "c"),  # not
        Request("a", "bab"),  # b, then a after b (even), then b
        Request("", "a"),  # after the start token
    ]
    expected = [
        math.log(LIKELY),
        math.log(UNLIKELY),
        2 * math.log(LIKELY) + math.log(EVEN),
        math.log(EVEN),
    ]
    found = likelihoods(Bigram(), BYTES, requests)
    np.testing.assert_allclose([one.log_probability for one in found], expected, rtol=OUTPUT_F64)
    # After b all bytes are equally likely, and byte 0 is the first of them: an a there is not greedy.
    assert [one.greedy for one in found] == [True, False, False, False]


def test_order_and_padding_change_nothing():
    requests = [Request("a" * n, "b" * (n % 3 + 1)) for n in (150, 1, 64, 65, 7, 100, 2)]
    alone = [likelihoods(Bigram(), BYTES, [request])[0] for request in requests]
    together = likelihoods(Bigram(), BYTES, requests, batch_tokens=200)
    for one, other in zip(alone, together, strict=True):
        assert math.isclose(one.log_probability, other.log_probability, rel_tol=OUTPUT_F64)


def test_spaces_at_the_end_of_a_context_are_predicted():
    assert encode(Request("so ", "be it"), BYTES).scored == len(" be it")
    ids, scored = encode(Request("so", " be it"), BYTES)
    assert bytes(ids.tolist()) == b"\nso be it"
    assert scored == len(" be it")


@pytest.mark.parametrize(
    ("length", "padded"), [(1, 64), (64, 64), (65, 96), (97, 128), (129, 192), (500, 512)]
)
def test_lengths_are_few(length, padded):
    assert padded_length(length) == padded


def test_a_titans_finds_what_reading_finds():
    config = TitansConfig(
        variant="lmm",
        dim=8,
        num_layers=1,
        feed_forward=0,
        memory=MemoryConfig(num_heads=1, chunk=4),
    )
    model = Titans(config, rngs=nnx.Rngs(0))
    ids = np.random.default_rng(0).integers(0, 256, 30).astype(np.int32)
    (losses,), _ = score(model, ids)
    (found,) = token_likelihoods(model, [Encoded(ids, 12)])
    np.testing.assert_allclose(found.log_probability, -losses[-12:].sum(), rtol=1e-5)
