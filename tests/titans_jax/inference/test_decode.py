"""Generation: one compiled loop, reproducible, each sequence as it would be alone."""

import numpy as np
import pytest

from tests.titans_jax.inference.inference_models import BLOCK, model, new_stream
from tests.titans_jax.inference.test_stream import random_ids
from tests.titans_jax.models.tiny_models import VOCABULARY
from titans_jax.inference import (
    Sampling,
    generate,
    generate_tokens,
    prefill,
    reset_memory,
    score,
)
from titans_jax.inference.decode import NO_TOKEN, _generate

SAMPLING = Sampling(temperature=0.9, top_k=8, top_p=0.95, repetition_penalty=1.1)


def read(name, *prompts):
    return prefill(model(name), list(prompts), new_stream(name, len(prompts)), block=BLOCK)


@pytest.mark.parametrize("name", ["mac", "mag"])
def test_a_sequence_of_a_batch_draws_what_it_draws_alone(name):
    prompts = [random_ids(13, 1), random_ids(4, 2), random_ids(8, 3)]
    stop = Sampling(temperature=0.9, top_k=8, stop_tokens=(3, 5, 6))
    together = generate(model(name), read(name, *prompts), 8, stop, seed=7)
    assert together.lengths.min() < 8  # one stops early while others go on
    for row, prompt in enumerate(prompts):
        alone = generate(model(name), read(name, prompt), 8, stop, seed=7 + row)
        np.testing.assert_array_equal(together.tokens[row], alone.tokens[0])
        np.testing.assert_allclose(
            together.stream.logits[row], alone.stream.logits[0], atol=1e-5, rtol=1e-5
        )
        assert int(together.stream.length[row]) == prompt.size + together.lengths[row]


def test_seeds_reproduce_and_differ():
    def tokens(seed):
        return generate(model("mag"), read("mag", *[random_ids(4)] * 2), 8, SAMPLING, seed=seed)

    first = tokens(0).tokens
    np.testing.assert_array_equal(first, tokens(0).tokens)
    assert (first[0] != first[1]).any()
    np.testing.assert_array_equal(tokens([5, 0]).tokens[1], first[0])


@pytest.mark.parametrize("burst", [1, 3, None])
def test_the_iterator_gives_the_same_tokens_and_stream(burst):
    expected = generate(model("mag"), read("mag", random_ids(9)), 8, SAMPLING, seed=3)
    tokens = generate_tokens(
        model("mag"), read("mag", random_ids(9)), 8, SAMPLING, seed=3, burst=burst
    )
    found = []
    while True:
        try:
            found.append(next(tokens))
        except StopIteration as stop:
            stream = stop.value
            break
    np.testing.assert_array_equal(np.stack(found, axis=1), expected.tokens)
    np.testing.assert_allclose(stream.logits, expected.stream.logits, atol=1e-6)


def test_a_stop_token_ends_the_sequence_and_is_part_of_it():
    whole = generate(model("mag"), read("mag", random_ids(4)), 8, SAMPLING, seed=1).tokens[0]
    stop = int(whole[3])
    first = int(np.flatnonzero(whole == stop)[0])
    sampling = Sampling(**{**vars(SAMPLING), "stop_tokens": (stop,)})
    result = generate(model("mag"), read("mag", random_ids(4)), 8, sampling, seed=1)
    assert result.lengths.tolist() == [first + 1]
    np.testing.assert_array_equal(result.tokens[0, : first + 1], whole[: first + 1])
    assert (result.tokens[0, first + 1 :] == NO_TOKEN).all()
    streamed = list(
        generate_tokens(model("mag"), read("mag", random_ids(4)), 8, sampling, seed=1, burst=3)
    )
    np.testing.assert_array_equal(np.concatenate(streamed), whole[: first + 1])


def test_nothing_compiles_again_as_the_position_grows():
    stream = read("mag", random_ids(4))
    stream = generate(model("mag"), stream, 5, SAMPLING).stream
    before = _generate._cache_size()
    for count in (5, 6, 7, 8):
        stream = generate(model("mag"), stream, count, SAMPLING, seed=count).stream
    assert _generate._cache_size() == before


def test_another_number_is_no_other_program():
    stream = generate(model("mag"), read("mag", random_ids(4)), 5, SAMPLING).stream
    before = _generate._cache_size()

    def tokens(*numbers, seed):
        return generate(model("mag"), stream.copy(), 8, Sampling(*numbers), seed=seed).tokens[0]

    assert (tokens(1.3, 7, 0.9, 1.2, seed=1) != tokens(1.3, 7, 0.9, 1.2, seed=2)).any()
    likeliest = tokens(0.8, 6, 1e-6, 1.2, seed=1)  # whatever is drawn
    for numbers in ((0.8, 6, 1e-6, 1.2), (1e-4, 5, 0.99, 1.2)):
        np.testing.assert_array_equal(tokens(*numbers, seed=2), likeliest)
    assert _generate._cache_size() == before


def test_one_stream_starts_several_texts_by_its_copies():
    book = read("mag", random_ids(9))
    first = generate(model("mag"), book.copy(), 5, SAMPLING, seed=1).tokens
    again = generate(model("mag"), book, 5, SAMPLING, seed=1).tokens
    np.testing.assert_array_equal(first, again)


@pytest.mark.parametrize(
    "use",
    [
        lambda stream: generate(model("mag"), stream, 5, SAMPLING),
        lambda stream: next(generate_tokens(model("mag"), stream, 5, SAMPLING)),
        lambda stream: prefill(model("mag"), [1], stream, block=BLOCK),
        lambda stream: score(model("mag"), [1], stream, block=BLOCK),
        lambda stream: reset_memory(model("mag"), stream),
        lambda stream: stream.copy(),
    ],
)
def test_a_stream_that_is_used_up_says_so(use):
    stream = read("mag", random_ids(4))
    generate(model("mag"), stream, 5, SAMPLING)
    with pytest.raises(ValueError, match=r"stream is used up by the call .* give it stream\.copy"):
        use(stream)


@pytest.mark.parametrize("seed", [-1, 2**32, 1_700_000_000_000_000_000, None, 1.5, True, [0.5, 1]])
def test_a_seed_that_does_not_fit_is_named(seed):
    stream = read("mag", *[random_ids(4)] * 2)
    with pytest.raises(ValueError, match="seed must be an integer from 0 to 4294967295, got"):
        generate(model("mag"), stream, 5, SAMPLING, seed=seed)
    with pytest.raises(ValueError, match=r"seed must be .* got 4294967296"):  # the second's
        generate(model("mag"), stream, 5, SAMPLING, seed=2**32 - 1)


def test_numpy_integers_are_counts_and_seeds():
    expected = generate(model("mag"), read("mag", random_ids(4)), 5, SAMPLING, seed=3).tokens
    found = generate(
        model("mag"), read("mag", random_ids(4)), np.int64(5), SAMPLING, seed=np.uint8(3)
    ).tokens
    np.testing.assert_array_equal(found, expected)


def test_the_stream_is_updated_in_place():
    stream = read("mag", random_ids(4))
    generate(model("mag"), stream, 5, SAMPLING)
    assert stream.state.memory.memory.weights[0].is_deleted()


def test_what_does_not_fit_is_refused():
    stream = read("mag", random_ids(4))
    with pytest.raises(ValueError, match=f"stop_tokens must be below vocab_size = {VOCABULARY}"):
        generate(model("mag"), stream, 5, Sampling(stop_tokens=(VOCABULARY,)))
    with pytest.raises(ValueError, match="num_tokens must be a positive integer, got 0"):
        generate(model("mag"), stream, 0)
    with pytest.raises(ValueError, match="seed must be one number or 1, one per sequence, got 2"):
        generate(model("mag"), stream, 5, seed=[1, 2])
    with pytest.raises(ValueError, match=r"at least one token of every sequence, got lengths \[0"):
        generate(model("mag"), new_stream("mag", 2), 5)
