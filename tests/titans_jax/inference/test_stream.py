"""Prefill in blocks equals one full forward, for every sequence of a batch and however it is fed."""

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.titans_jax.inference.inference_models import (
    BLOCK,
    MAX_LENGTH,
    full_forward,
    model,
    new_stream,
)
from tests.titans_jax.models.tiny_models import KINDS, VOCABULARY
from tests.tolerances import OUTPUT_F32, assert_close
from titans_jax.inference import (
    GREEDY,
    generate,
    prefill,
    reset_memory,
    score,
    start_stream,
)
from titans_jax.inference.stream import block_sizes, read_block
from titans_jax.memory.layer import NeuralMemoryState
from titans_jax.presets import PRESETS, preset


def random_ids(length, seed=0):
    return np.random.default_rng(seed).integers(0, VOCABULARY, length, np.int32)


@pytest.mark.parametrize("name", KINDS)
@settings(max_examples=10)
@given(
    lengths=st.lists(st.integers(1, 20), min_size=2, max_size=2),
    cut=st.integers(0, 20),
    generated=st.integers(1, 8),
    seed=st.integers(0, 100),
)
def test_prefill_in_any_split_and_decoding_equal_one_forward(name, lengths, cut, generated, seed):
    """Both sequences of a ragged batch: logits after the prompt and after every generated token."""
    prompts = [random_ids(n, seed + n) for n in lengths]
    stream = prefill(model(name), [p[:cut] for p in prompts], new_stream(name, 2), block=BLOCK)
    stream = prefill(model(name), [p[cut:] for p in prompts], stream, block=BLOCK)
    after_prompt = np.asarray(stream.logits)
    result = generate(model(name), stream, generated, GREEDY)
    for row, prompt in enumerate(prompts):
        whole = full_forward(name, np.concatenate([prompt, result.tokens[row]])[None])[0]
        assert_close(after_prompt[row], whole[prompt.size - 1], OUTPUT_F32)
        assert_close(np.asarray(result.stream.logits[row]), whole[-1], OUTPUT_F32)
        chosen = whole[prompt.size - 1 : -1].argmax(axis=-1)
        np.testing.assert_array_equal(result.tokens[row], chosen)
        assert int(result.stream.length[row]) == prompt.size + generated


def one_by_one(ids):
    yield from (int(i) for i in ids)


def jax_scalars(ids):
    return list(jnp.asarray(ids))


def in_pieces(ids):
    yield from np.array_split(ids, [0, 1, 2, 9])


@pytest.mark.parametrize("feed", [list, jax_scalars, in_pieces, one_by_one, lambda ids: ids[None]])
def test_tokens_come_as_a_list_an_array_or_an_iterator(feed):
    ids = random_ids(20)
    expected = full_forward("mag", ids[None])[0, -1]
    stream = prefill(model("mag"), feed(ids), new_stream("mag", 1), block=BLOCK)
    assert_close(stream.logits[0], expected, OUTPUT_F32)


def test_an_iterator_is_pulled_one_block_at_a_time():
    pulled = []

    def endless():
        while True:
            pulled.append(len(pulled) % VOCABULARY)
            yield pulled[-1]
            if len(pulled) > 3 * BLOCK:
                raise KeyboardInterrupt

    seen = []
    with pytest.raises(KeyboardInterrupt):
        prefill(model("lmm"), (seen.append(i) or i for i in endless()), block=BLOCK)
    assert len(seen) == 3 * BLOCK + 1


@pytest.mark.parametrize("name", ["mac", "lmm"])
def test_losses_are_those_of_one_forward(name):
    ids = random_ids(20)
    logits = full_forward(name, ids[None])[0].astype(np.float64)
    log_z = np.log(np.exp(logits).sum(axis=-1))
    expected = log_z[:-1] - logits[np.arange(19), ids[1:]]
    (first,), stream = score(model(name), ids[:13], new_stream(name, 1), block=BLOCK)
    (rest,), _ = score(model(name), ids[13:], stream, block=BLOCK)
    losses = np.concatenate([first, rest])
    assert losses.shape == (20,)
    assert_close(losses[0], np.log(VOCABULARY), OUTPUT_F32)
    assert_close(losses[1:], expected, OUTPUT_F32)


def test_no_tokens_leave_a_stream_as_it_is():
    stream = prefill(model("lmm"), [[], random_ids(6)], new_stream("lmm", 2), block=BLOCK)
    assert np.asarray(stream.length).tolist() == [0, 6]
    assert not np.asarray(stream.seen[0]).any()


def test_nothing_compiles_again_for_a_longer_text_or_a_later_position():
    stream = prefill(model("mag"), random_ids(2 * BLOCK + 4), new_stream("mag", 1), block=BLOCK)
    # Blocks that start in the middle of a chunk are another program, and the last.
    stream = prefill(model("mag"), random_ids(BLOCK + 4), stream, block=BLOCK)
    before = read_block._cache_size()
    stream = prefill(model("mag"), random_ids(7 * BLOCK + 5), stream, block=BLOCK)
    prefill(model("mag"), random_ids(20 * BLOCK + 1), stream, block=BLOCK)
    assert read_block._cache_size() == before


def test_the_stream_is_updated_in_place():
    stream = prefill(model("lmm"), random_ids(6), new_stream("lmm", 1), block=BLOCK)
    prefill(model("lmm"), random_ids(6), stream, block=BLOCK)
    assert stream.state.memory.weights[0].is_deleted()


@pytest.mark.parametrize("name", PRESETS)
def test_blocks_of_the_presets_are_whole_chunks(name):
    for variant in ("mac", "lmm"):
        config = preset(name, variant)
        largest, *smaller = block_sizes(config)
        assert largest % config.alignment == 0
        assert smaller[-1] == 1
        assert len(smaller) <= 4
        assert (smaller[0] == config.alignment) or largest == config.alignment


@pytest.mark.parametrize(
    ("tokens", "message"),
    [
        (np.zeros(3), r"tokens must be integers.* got float64"),
        ([0, VOCABULARY], rf"tokens must lie in \[0, {VOCABULARY}\).* got {VOCABULARY}"),
        ([0.0, 1.0], r"tokens must be integers.* got float64"),
        (np.zeros((0, 5), np.int32), r"tokens must be at least one sequence.* got \(0, 5\)"),
        ([-1], r"tokens must lie in .* got -1"),
        ("text", r"tokens must be ids, got str: encode it first"),
        ([1, [2]], r"tokens must be ids or sequences of ids, got both"),
        ([[1], [2]], r"one sequence for each of the stream's 1, got 2"),
        (np.zeros((1, 2, 3), np.int32), r"tokens must be integers, one axis per sequence"),
    ],
)
def test_tokens_that_do_not_fit_are_refused(tokens, message):
    with pytest.raises(ValueError, match=message):
        prefill(model("lmm"), tokens, new_stream("lmm", 1), block=BLOCK)


def test_other_arguments_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="block must be a positive integer, got 0"):
        prefill(model("lmm"), [1], block=0)
    with pytest.raises(ValueError, match="max_length must be None where a stream is given, got 9"):
        prefill(model("lmm"), [1], new_stream("lmm", 1), max_length=9)
    with pytest.raises(ValueError, match="max_length is None, but full attention"):
        start_stream(model("transformer"))
    with pytest.raises(ValueError, match=r"batch_size must be a positive integer, got 1\.5"):
        start_stream(model("lmm"), 1.5)
    assert start_stream(model("transformer"), np.int64(1), MAX_LENGTH).length.shape == (1,)


def layer_state(stream):
    """The memory layer's part of a stream, which in LMM is all of it."""
    state = stream.state
    return state if isinstance(state, NeuralMemoryState) else state.memory


@pytest.mark.parametrize("name", ["mac", "lmm"])
def test_a_reset_forgets_the_memory_alone(name):
    """LMM without convolutions would be a new stream; MAC reads its next segment from the initial memory."""
    read = prefill(model(name), random_ids(12), new_stream(name, 1), block=BLOCK)
    tail = np.asarray(layer_state(read).conv_k)
    reset = reset_memory(model(name), read)
    fresh = new_stream(name, 1)
    layer, new = (layer_state(s) for s in (reset, fresh))
    assert_close(layer.memory.weights, new.memory.weights, 0.0)
    assert_close(layer.memory.momentum, new.memory.momentum, 0.0)
    np.testing.assert_array_equal(layer.conv_k, tail)
    if name == "mac":
        assert_close(reset.state.segment_weights, fresh.state.segment_weights, 0.0)


def test_a_reset_within_a_chunk_is_refused():
    stream = prefill(model("lmm"), random_ids(7), new_stream("lmm", 1), block=BLOCK)
    with pytest.raises(ValueError, match=r"multiple of 3 tokens to reset its memory, got \[7\]"):
        reset_memory(model("lmm"), stream)
    for name in ("transformer", "mamba2"):
        with pytest.raises(ValueError, match=f"variant must be one with a memory, got '{name}'"):
            reset_memory(model(name), stream)
