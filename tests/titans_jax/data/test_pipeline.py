"""The grain pipeline: deterministic, disjoint over processes, complete, and resumable at every batch."""

import itertools
import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from orbax.checkpoint import v1 as ocp

from titans_jax.data.pipeline import make_pipeline

SETTINGS = {"sequence_length": 8, "batch_size": 2, "seed": 0, "shuffle": True, "repeat": True}


def numbered(*sizes):
    """Documents whose tokens are all different, so that a token says where it came from."""
    ends = np.cumsum(sizes)
    return [np.arange(e - n, e, dtype=np.int32) + 1 for n, e in zip(sizes, ends, strict=True)]


def pipeline(documents, **changes):
    return make_pipeline(documents, **{**SETTINGS, **changes})


def take(iterator, count):
    return list(itertools.islice(iterator, count))


def counted_targets(batches):
    return np.concatenate([batch["targets"][batch["loss_mask"]] for batch in batches])


def assert_same(actual, expected):
    assert len(actual) == len(expected)
    for a, e in zip(actual, expected, strict=True):
        assert a.keys() == e.keys()
        for name in e:
            np.testing.assert_array_equal(a[name], e[name])


@pytest.mark.parametrize("packing", ["stream", "documents"])
def test_a_batch_is_what_the_loss_takes(packing):
    batch = next(iter(pipeline(numbered(50, 30), packing=packing, alignment=4)))
    assert {name: (value.dtype.name, value.shape) for name, value in batch.items()} == {
        "inputs": ("int32", (2, 8)),
        "targets": ("int32", (2, 8)),
        "loss_mask": ("bool", (2, 8)),
        "reset": ("bool", (2, 8)),
    }
    assert batch["reset"].any() == (packing == "documents")


@settings(max_examples=20)
@given(
    st.lists(st.integers(1, 40), min_size=1, max_size=6).filter(lambda n: sum(n) - len(n) >= 8),
    st.integers(1, 3),
    st.integers(1, 3),
    st.sampled_from(["stream", "documents"]),
    st.booleans(),
)
def test_one_pass_counts_every_target_once_over_all_processes(
    sizes, batch_size, processes, packing, shuffle
):
    documents = numbered(*sizes)
    shares = [
        list(
            pipeline(
                documents,
                batch_size=batch_size,
                repeat=False,
                shuffle=shuffle,
                packing=packing,
                alignment=4,
                process_index=index,
                process_count=processes,
            )
        )
        for index in range(processes)
    ]
    assert len({len(share) for share in shares}) == 1
    batches = [batch for share in shares for batch in share]
    assert {batch["inputs"].shape for batch in batches} == {(batch_size, 8)}
    expected = np.concatenate([document[1:] for document in documents])
    np.testing.assert_array_equal(np.sort(counted_targets(batches)), expected)


@settings(max_examples=20)
@given(
    st.integers(0, 25),
    st.integers(0, 5),
    st.sampled_from(["stream", "documents"]),
    st.booleans(),
)
def test_resuming_at_any_batch_changes_nothing(before, seed, packing, shuffle):
    def start():
        return iter(
            pipeline(
                numbered(40, 9, 23), seed=seed, packing=packing, shuffle=shuffle, process_count=2
            )
        )

    iterator = start()
    take(iterator, before)
    state = json.loads(json.dumps(iterator.get_state()))
    expected = take(iterator, 12)
    fresh = start()
    fresh.set_state(state)
    assert_same(take(fresh, 12), expected)
    # An iterator that has run on can be taken back, too.
    iterator.set_state(state)
    assert_same(take(iterator, 12), expected)


def test_resuming_a_single_pass_ends_where_it_would_have():
    data = pipeline(numbered(100), shuffle=False, repeat=False)
    whole = list(data)
    for position in range(len(whole) + 1):
        iterator = iter(data)
        take(iterator, position)
        resumed = iter(data)
        resumed.set_state(iterator.get_state())
        assert_same(list(resumed), whole[position:])


def test_the_iterator_is_a_checkpointable_item_of_orbax(tmp_path):
    data = pipeline(numbered(40, 30))
    iterator = iter(data)
    take(iterator, 7)
    ocp.save_checkpointables(tmp_path / "checkpoint", {"data": iterator})
    expected = take(iterator, 5)
    restored = iter(data)
    ocp.load_checkpointables(tmp_path / "checkpoint", {"data": restored})
    assert_same(take(restored, 5), expected)


def test_every_epoch_has_an_order_of_its_own_and_the_same_windows():
    iterator = iter(pipeline(numbered(161), batch_size=1))
    epochs = [[int(batch["inputs"][0, 0]) for batch in take(iterator, 20)] for _ in range(3)]
    assert len({tuple(sorted(epoch)) for epoch in epochs}) == 1
    assert len({tuple(epoch) for epoch in epochs}) == 3
    assert epochs[0] != sorted(epochs[0])


def test_a_seed_decides_the_order():
    def order(seed):
        return [batch["inputs"].tolist() for batch in take(iter(pipeline(*data, seed=seed)), 10)]

    data = (numbered(400),)
    assert order(1) == order(1)
    assert order(1) != order(2)


def test_processes_read_disjoint_windows_of_every_epoch():
    documents = numbered(161)  # 20 windows: 10 per process and epoch
    firsts = []
    for index in range(2):
        iterator = iter(pipeline(documents, process_index=index, process_count=2))
        firsts.append({int(x) for batch in take(iterator, 5) for x in batch["inputs"][:, 0]})
    assert firsts[0].isdisjoint(firsts[1])
    assert len(firsts[0] | firsts[1]) == 20


def test_without_shuffling_the_text_comes_in_order():
    batches = list(pipeline(numbered(33), shuffle=False, repeat=False))
    np.testing.assert_array_equal(counted_targets(batches), np.arange(2, 34))


def test_documents_without_a_target_are_left_out():
    empty = np.array([7], np.int32)
    with_empty = [empty, *numbered(20), empty]
    assert_same(
        list(pipeline(with_empty, repeat=False)), list(pipeline(numbered(20), repeat=False))
    )


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"sequence_length": 0}, r"sequence_length is 0; it must be a positive integer"),
        ({"sequence_length": -8}, r"sequence_length is -8"),
        ({"sequence_length": 8.0}, r"sequence_length is 8\.0"),
        ({"batch_size": 0}, r"batch_size is 0"),
        ({"alignment": 0}, r"alignment is 0"),
        ({"alignment": 3, "packing": "documents"}, r"alignment is 3; it must divide .*=8"),
        ({"process_count": 0}, r"process_count is 0"),
        ({"process_index": 2, "process_count": 2}, r"process_index is 2.*\[0, 2\)"),
        ({"process_index": -1}, r"process_index is -1"),
        ({"seed": -1}, r"seed is -1"),
        ({"seed": 2**32}, r"seed is 4294967296"),
        ({"packing": "dense"}, r"packing is 'dense'.*\"stream\" or \"documents\""),
        (
            {"sequence_length": 50},
            r"holds 49 tokens, fewer than one .*sequence_length=50.*at most 49",
        ),
    ],
)
@pytest.mark.parametrize("repeat", [True, False])
def test_a_bad_argument_is_named(changes, message, repeat):
    with pytest.raises(ValueError, match=message):
        pipeline(numbered(50), repeat=repeat, **changes)


def test_no_text_at_all_is_refused():
    with pytest.raises(ValueError, match="holds 0 tokens"):
        pipeline([])
