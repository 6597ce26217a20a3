"""The grain pipeline: deterministic, disjoint over processes, complete, and resumable at every batch."""

import itertools
import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from orbax.checkpoint import v1 as ocp

from tests.titans_jax.data.prepared_folder import numbered as without_start
from tests.titans_jax.data.prepared_folder import write_prepared
from titans_jax.data.pipeline import make_mixture, make_pipeline
from titans_jax.data.prepared import open_prepared

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


@pytest.mark.parametrize("packing", ["stream", "documents"])
def test_prepared_documents_give_the_batches_that_they_give_in_memory(tmp_path, packing):
    folder = write_prepared(tmp_path, [without_start(3000, 5), without_start(1, 999, first=4000)])
    on_disk = open_prepared(folder).documents
    in_memory = list(on_disk)
    arguments = {"packing": packing, "alignment": 4, "sequence_length": 64, "repeat": False}
    expected = list(pipeline(in_memory, **arguments))
    assert len(expected) > 30
    assert_same(list(pipeline(on_disk, **arguments)), expected)


@pytest.mark.parametrize("packing", ["stream", "documents"])
def test_processes_together_read_the_batches_of_one(packing):
    documents = numbered(300, 40, 3, 9)
    arguments = {"packing": packing, "alignment": 4}
    whole = take(iter(pipeline(documents, batch_size=6, **arguments)), 20)
    iterators = [
        iter(pipeline(documents, batch_size=2, process_index=index, process_count=3, **arguments))
        for index in range(3)
    ]
    for batch in whole:
        parts = [next(iterator) for iterator in iterators]
        together = np.concatenate([part["inputs"] for part in parts])
        np.testing.assert_array_equal(sorted(together.tolist()), sorted(batch["inputs"].tolist()))
    # The position is the same in all, and the same as that of a single process.
    single = iter(pipeline(documents, batch_size=6, **arguments))
    single.set_state(iterators[1].get_state())
    assert_same([next(single)], take(iter(pipeline(documents, batch_size=6, **arguments)), 21)[20:])


def sources(tmp_path):
    """Two prepared folders whose tokens lie below and above 10,000, and their weights."""
    few = write_prepared(tmp_path / "few", [without_start(100, 60)])
    many = write_prepared(tmp_path / "many", [without_start(5000, 77, first=10_000)])
    return [(open_prepared(few).documents, 0.7), (open_prepared(many).documents, 0.3)]


def mixture(parts, **changes):
    arguments = {"sequence_length": 16, "batch_size": 10, "seed": 3, **changes}
    return make_mixture(parts, **arguments)


@pytest.mark.parametrize("packing", ["stream", "documents"])
def test_a_mixture_draws_by_weight_in_every_stretch_and_repeats_the_short_source(tmp_path, packing):
    batches = take(iter(mixture(sources(tmp_path), packing=packing, alignment=4)), 50)
    from_few = [int((batch["inputs"].max(axis=1) < 10_000).sum()) for batch in batches]
    assert abs(sum(from_few) - 350) <= 2
    assert set(from_few) <= {6, 7, 8}


def test_a_mixture_reads_every_window_of_a_source_once_an_epoch(tmp_path):
    parts = sources(tmp_path)
    windows = take(iter(mixture(parts, batch_size=1)), 400)
    few = [w["inputs"][0].tolist() for w in windows if w["inputs"].max() < 10_000]
    an_epoch = -(-(162 - 1) // 16)
    epochs = [
        {tuple(window) for window in few[i : i + an_epoch]}
        for i in range(0, 10 * an_epoch, an_epoch)
    ]
    assert all(len(epoch) == an_epoch for epoch in epochs)
    assert all(epoch == epochs[0] for epoch in epochs)
    orders = {tuple(map(tuple, few[i : i + an_epoch])) for i in range(0, 10 * an_epoch, an_epoch)}
    assert len(orders) == 10


@pytest.mark.parametrize("before", [0, 1, 7, 40])
def test_a_mixture_resumes_in_the_middle_of_an_epoch(tmp_path, before):
    data = mixture(sources(tmp_path))
    iterator = iter(data)
    take(iterator, before)
    ocp.save_checkpointables(tmp_path / "checkpoint", {"data": iterator})
    expected = take(iterator, 10)
    restored = iter(mixture(sources(tmp_path)))
    ocp.load_checkpointables(tmp_path / "checkpoint", {"data": restored})
    assert_same(take(restored, 10), expected)


def test_processes_read_disjoint_and_complete_shares_of_a_mixture(tmp_path):
    parts = sources(tmp_path)
    whole = take(iter(mixture(parts, batch_size=2)), 30)
    shares = [
        take(iter(mixture(parts, batch_size=1, process_index=index, process_count=2)), 30)
        for index in range(2)
    ]
    for batch, *halves in zip(whole, *shares, strict=True):
        together = np.concatenate([half["inputs"] for half in halves])
        np.testing.assert_array_equal(together, batch["inputs"])


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ([], "sources is empty"),
        ([(numbered(50), 0.0)], r"sources\[0\] has the weight 0"),
        ([(numbered(50), 1.0), (numbered(50), float("nan"))], r"sources\[1\] has the weight nan"),
        ([(numbered(50), 1.0), (numbered(9), 1.0)], "holds 8 tokens"),
    ],
)
def test_a_bad_mixture_is_named(parts, message):
    with pytest.raises(ValueError, match=message):
        mixture(parts)


# Rows that walk through the text


@pytest.mark.parametrize("processes", [1, 2])
def test_a_carried_row_goes_on_where_it_stopped(processes):
    """For `carry` windows, then elsewhere; rows start elsewhere at different steps, and no window comes twice."""
    length, rows, carry = 4, 4, 3
    documents = numbered(1 + 4 * 80)  # 80 windows, 26 walks of 3
    parts = [
        take(
            iter(
                pipeline(
                    documents,
                    sequence_length=length,
                    batch_size=rows // processes,
                    process_index=index,
                    process_count=processes,
                    carry=carry,
                )
            ),
            9,
        )
        for index in range(processes)
    ]
    batches = [
        {name: np.concatenate([part[step][name] for part in parts]) for name in parts[0][step]}
        for step in range(9)
    ]
    starts = np.stack([batch["reset"][:, 0] for batch in batches])
    assert not any(batch["reset"][:, 1:].any() for batch in batches)
    np.testing.assert_array_equal(
        starts, [[(s + r * 3 // 4) % 3 == 0 for r in range(4)] for s in range(9)]
    )
    for before, after in itertools.pairwise(batches):
        goes_on = ~after["reset"][:, 0]
        np.testing.assert_array_equal(after["inputs"][goes_on, 0], before["targets"][goes_on, -1])
    seen = np.concatenate([batch["inputs"][:, 0] for batch in batches])
    assert len(set(seen.tolist())) == 36


def test_a_carried_row_is_the_same_for_any_number_of_processes():
    documents = numbered(1 + 4 * 40)
    options = {"sequence_length": 4, "carry": 3}
    whole = take(iter(pipeline(documents, batch_size=4, **options)), 20)
    for index in range(2):
        share = {"batch_size": 2, "process_index": index, "process_count": 2}
        for one, part in zip(
            whole, take(iter(pipeline(documents, **options, **share)), 20), strict=True
        ):
            assert_same([part], [{name: x[2 * index : 2 * index + 2] for name, x in one.items()}])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"carry": 11}, "carry is 11; the text has 10 full windows, so it must be at most that"),
        ({"carry": 2, "repeat": False}, 'carry is 2; it needs packing="stream", shuffle=True and repeat=True'),
        ({"carry": 2, "packing": "documents"}, 'carry is 2; it needs packing="stream"'),
    ],
)  # fmt: skip
def test_what_cannot_be_carried_is_named(changes, message):
    with pytest.raises(ValueError, match=message):
        pipeline(numbered(1 + 4 * 10), sequence_length=4, **changes)
