"""Windows: every token is a target exactly once, after the token before it, and documents stay apart."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from titans_jax.data.packing import (
    DocumentWindows,
    StreamWindows,
    TokensInMemory,
    blank_window,
)

lengths = st.lists(st.integers(2, 40), min_size=1, max_size=12)


def numbered(sizes):
    """Documents whose tokens are all different, so that a token says where it came from."""
    ends = np.cumsum(sizes)
    return [np.arange(e - n, e, dtype=np.int32) + 1 for n, e in zip(sizes, ends, strict=True)]


def counted_targets(windows):
    return np.concatenate([w["targets"][w["loss_mask"]] for w in windows])


def all_windows(source):
    return [source[i] for i in range(len(source))]


@settings(max_examples=50)
@given(lengths, st.integers(1, 16))
def test_a_stream_counts_every_token_but_the_first_of_each_document_in_order(sizes, length):
    documents = numbered(sizes)
    windows = all_windows(StreamWindows(TokensInMemory(documents), length))
    expected = np.concatenate([document[1:] for document in documents])
    np.testing.assert_array_equal(counted_targets(windows), expected)


@settings(max_examples=50)
@given(lengths, st.integers(1, 16))
def test_a_stream_is_only_padded_at_its_end_and_never_resets(sizes, length):
    documents = numbered(sizes)
    windows = all_windows(StreamWindows(TokensInMemory(documents), length))
    stream = np.concatenate(documents)
    inputs = np.concatenate([window["inputs"] for window in windows])
    targets = np.concatenate([window["targets"] for window in windows])
    np.testing.assert_array_equal(inputs[: len(stream)], stream[: len(inputs)])
    np.testing.assert_array_equal(targets[: len(stream) - 1], stream[1:])
    assert len(windows) * length - (len(stream) - 1) < length
    assert not any(window["reset"].any() for window in windows)


@settings(max_examples=50)
@given(lengths, st.sampled_from([(8, 1), (8, 4), (8, 8), (12, 3), (16, 4)]))
def test_documents_count_every_token_but_the_first_exactly_once(sizes, shape):
    documents = numbered(sizes)
    windows = all_windows(DocumentWindows(TokensInMemory(documents), *shape))
    expected = np.concatenate([document[1:] for document in documents])
    np.testing.assert_array_equal(np.sort(counted_targets(windows)), expected)
    for window in windows:
        mask = window["loss_mask"]
        np.testing.assert_array_equal(window["targets"][mask], window["inputs"][mask] + 1)
        assert not window["inputs"][~mask].any()


@settings(max_examples=50)
@given(lengths, st.sampled_from([(8, 1), (8, 4), (8, 8), (12, 3), (16, 4)]))
def test_documents_start_with_a_reset_at_a_chunk_and_run_unbroken(sizes, shape):
    length, alignment = shape
    documents = numbered(sizes)
    owner = {int(token): number for number, d in enumerate(documents) for token in d}
    pieces = []
    for window in all_windows(DocumentWindows(TokensInMemory(documents), length, alignment)):
        starts = np.flatnonzero(window["reset"])
        assert starts[0] == 0
        assert not (starts % alignment).any()
        for start, end in zip(starts, [*starts[1:], length], strict=True):
            mask = window["loss_mask"][start:end]
            count = int(mask.sum())
            assert count
            assert mask[:count].all()
            assert end - start < count + alignment or end == length
            tokens = [
                *window["inputs"][start : start + count],
                window["targets"][start + count - 1],
            ]
            assert {owner[int(token)] for token in tokens} == {owner[int(tokens[0])]}
            pieces.append(count)
    # A document is only cut where it is longer than a window.
    assert sorted(pieces) == sorted(
        min(length, size - 1 - start) for size in sizes for start in range(0, size - 1, length)
    )


def test_documents_share_windows_rather_than_pad():
    documents = TokensInMemory(numbered([4, 8, 4, 4, 4]))
    source = DocumentWindows(documents, sequence_length=8, alignment=4)
    assert len(source) == 3
    assert sorted(int(window["reset"].sum()) for window in all_windows(source)) == [1, 2, 2]


def one_by_one(targets, capacity):
    """Best-fit decreasing as it is usually written: the room left in each window."""
    room = []
    for size in sorted(targets, reverse=True):
        fitting = [i for i, free in enumerate(room) if free >= size]
        if fitting:
            best = min(fitting, key=lambda i: room[i])
            room[best] -= size
        else:
            room.append(capacity - size)
    return sorted(room)


@settings(max_examples=100)
@given(st.lists(st.integers(1, 12), min_size=1, max_size=60))
def test_filling_groups_of_windows_is_best_fit_decreasing(targets):
    documents = numbered([size + 1 for size in targets])
    windows = all_windows(DocumentWindows(TokensInMemory(documents), 12, 1))
    expected = np.concatenate([document[1:] for document in documents])
    np.testing.assert_array_equal(np.sort(counted_targets(windows)), expected)
    room = sorted(int((~window["loss_mask"]).sum()) for window in windows)
    assert room == one_by_one(targets, 12)


def test_a_best_fit_leaves_the_emptier_window_for_the_longer_document():
    # Targets in chunks of 1: 5, 4, 3, 2, 2. Windows of 8: 5+3, 4+2+2.
    documents = TokensInMemory(numbered([6, 5, 4, 3, 3]))
    source = DocumentWindows(documents, sequence_length=8, alignment=1)
    assert len(source) == 2
    assert all(window["loss_mask"].all() for window in all_windows(source))


@pytest.mark.parametrize("make", [StreamWindows, lambda d, n: DocumentWindows(d, n, 4)])
def test_windows_have_the_types_of_a_batch_and_are_built_anew(make):
    source = make(TokensInMemory(numbered([9, 9])), 8)
    for window in (source[0], blank_window(8)):
        assert {name: np.asarray(value).dtype.name for name, value in window.items()} == {
            "inputs": "int32",
            "targets": "int32",
            "loss_mask": "bool",
            "reset": "bool",
        }
        assert all(np.asarray(value).shape == (8,) for value in window.values())
    source[0]["inputs"][:] = -1
    assert (source[0]["inputs"] >= 0).all()
