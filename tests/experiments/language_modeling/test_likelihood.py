"""Log probabilities of continuations, against a model whose probabilities are known."""

import math

import numpy as np
import pytest
import tokenizers
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
from titans_jax.data import ByteTokenizer, load_tokenizer
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


@pytest.fixture(scope="module")
def merging(tmp_path_factory):
    """A tokenizer of which "window" is one token, and no text that "w" begins keeps it apart."""
    bpe = tokenizers.ByteLevelBPETokenizer()
    words = ["window winter wind windmill"] * 60
    bpe.train_from_iterator(words, vocab_size=290, show_progress=False)
    path = tmp_path_factory.mktemp("tokenizer") / "t.json"
    bpe.save(str(path))
    return load_tokenizer(str(path))


@pytest.mark.parametrize(
    ("context", "continuation"),
    [("wind", "ow"), ("w", "indmill"), ("wind", "ow wind"), ("w", "indow w")],
)
def test_a_continuation_that_joins_its_context_is_scored_by_tokens_of_its_own(
    merging, context, continuation
):
    whole = merging.encode((context + continuation).encode())
    before = merging.encode(context.encode())
    assert whole[: len(before)].tolist() != before.tolist()
    ids, scored = encode(Request(context, continuation), merging)
    assert ids[0] == merging.start_token
    assert merging.decode(ids[1:-scored]).decode() == context
    assert merging.decode(ids[-scored:]).decode() == continuation


def test_no_continuation_is_certain_because_it_has_no_tokens(merging):
    for request in (Request("wind", ""), Request("", "")):
        with pytest.raises(ValueError, match="continuation must have at least one token, got ''"):
            likelihoods(Bigram(), merging, [request])
    for scored in (0, -1, 3):
        with pytest.raises(ValueError, match=f"scored must be from 1 to .* 2, got {scored}"):
            token_likelihoods(Bigram(), [Encoded(np.array([1, 2, 3]), scored)])


@pytest.mark.parametrize("wrong", [-1, 256])
def test_ids_that_the_model_does_not_know_are_refused(wrong):
    with pytest.raises(ValueError, match=rf"ids must lie in \[0, 256\).* got {wrong}"):
        token_likelihoods(Bigram(), [Encoded(np.array([1, wrong, 3]), 1)])


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
