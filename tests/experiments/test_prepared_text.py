"""Training on prepared folders and mixtures of them: every token to the process it belongs to, and clear refusals."""

import collections
import dataclasses
import itertools

import numpy as np
import pytest
from orbax.checkpoint import v1 as ocp

from experiments.training import text as training_text
from experiments.training.text import Share
from tests.experiments.preparations import NOTHING_HELD_OUT, lines, run, write
from tests.experiments.tiny_run import tiny_config
from titans_jax.data.prepared import open_prepared
from titans_jax.data.tokenizers import ByteTokenizer

ALL = Share(0, 1)


@pytest.fixture
def prepared(tmp_path):
    """Two folders: many short documents, and few."""
    texts = [f"the memory writes what surprises it, number {n}. " * 2 for n in range(60)]
    write(
        tmp_path / "in",
        {"a.jsonl": lines(texts), "b.jsonl": lines([t.upper() for t in texts[:20]])},
    )
    for name in "ab":
        run(tmp_path / f"in/{name}.jsonl", tmp_path / name, valid_fraction=0.1)
    return tmp_path


def load(folder, path, **changes):
    config = tiny_config(folder, data__path=str(path), **changes)
    return config, training_text.load_text(config, ByteTokenizer())


@pytest.mark.parametrize("packing", ["stream", "documents"])
def test_training_reads_a_prepared_folder(prepared, packing):
    config, text = load(prepared, prepared / "a", data__packing=packing)
    training_texts = [
        ByteTokenizer().decode(d[1:]) for d in open_prepared(prepared / "a").documents
    ]
    assert text.train.target_bytes == text.train.target_tokens == sum(map(len, training_texts))
    batch = next(training_text.train_batches(config, text, ALL))
    assert batch["inputs"].shape == (4, 16)
    assert ("reset" in batch) == (packing == "documents")
    scored = [b["targets"][b["loss_mask"]] for b in training_text.valid_batches(config, text, ALL)]
    assert len(text.valid_bytes) == text.valid.target_bytes > 0
    assert collections.Counter(bytes(np.concatenate(scored).tolist())) == collections.Counter(
        text.valid_bytes
    )


def test_a_mixture_gives_each_folder_its_share_of_batches_and_of_validation_text(prepared):
    path = f"{prepared}/a:3,{prepared}/b:1"
    config, text = load(prepared, path, data__valid_bytes=200)
    batches = training_text.train_batches(config, text, ALL)
    rows = np.concatenate([next(batches)["inputs"] for _ in range(100)])
    upper = [bool(np.isin(row, list(range(65, 91))).any()) for row in rows]
    assert abs(sum(upper) - 100) <= 1
    assert len(text.valid_bytes) == 200
    assert text.valid_bytes[:150].islower()
    assert text.valid_bytes[150:].isupper()
    separately = [
        document for name in "ab" for document in open_prepared(prepared / name).documents
    ]
    for document, expected in zip(text.train.documents, separately, strict=True):
        np.testing.assert_array_equal(document, expected)
    others = [
        load(prepared, p, data__valid_bytes=200)[1].fingerprint
        for p in (path, f"{prepared}/a:2,{prepared}/b:1", prepared / "a")
    ]
    assert others[0] == text.fingerprint
    assert len(set(others)) == 3


@pytest.mark.parametrize("path", ["{0}/a", "{0}/a:1,{0}/b:1"])
def test_two_processes_together_read_every_batch(prepared, path):
    config, text = load(prepared, path.format(prepared))
    for batches in (training_text.train_batches, training_text.valid_batches):
        whole = list(itertools.islice(batches(config, text, ALL), 30))
        halves = [list(itertools.islice(batches(config, text, Share(i, 2)), 30)) for i in range(2)]
        assert len(halves[0]) == len(halves[1]) == len(whole) > 2
        for batch, *parts in zip(whole, *halves, strict=True):
            assert all(part["inputs"].shape == (2, 16) for part in parts)
            for name, rows in batch.items():
                together = np.concatenate([part[name] for part in parts])
                assert sorted(together.tolist()) == sorted(rows.tolist())
    odd = dataclasses.replace(config, batch_size=5)
    with pytest.raises(ValueError, match=r"config\.batch_size=5: must be a multiple of 2"):
        training_text.train_batches(odd, text, Share(0, 2))


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("{0}/a:0.7,{0}/b", r"'{0}/b' has no weight; write FOLDER:WEIGHT"),
        ("{0}/a:0.7,{0}/b:0", r"the weight of '{0}/b' is 0; it must be a positive"),
        ("{0}/a:0.7,{0}/b:nan", r"the weight of '{0}/b' is nan"),
        ("{0}/a:0.7,{0}/in:0.3", r"in/manifest\.json does not exist"),
        ("{0}/short", r"its 9 training tokens are fewer than .*sequence_length=16"),
        ("{0}/unvalidated", r"no text was held out to validate with"),
    ],
)
def test_a_path_that_cannot_be_trained_on_is_named(prepared, path, message):
    write(prepared / "in", {"short.txt": b"too short", "long.txt": b"long enough " * 9})
    run(prepared / "in/short.txt", prepared / "short", **NOTHING_HELD_OUT)
    run(prepared / "in/long.txt", prepared / "unvalidated", **NOTHING_HELD_OUT)
    with pytest.raises((ValueError, FileNotFoundError), match=message.format(prepared)) as raised:
        load(prepared, path.format(prepared))
    assert "config.data.path=" in str(raised.value)


def test_another_tokenizer_is_refused(prepared):
    class Other(ByteTokenizer):
        def fingerprint(self):
            return "f" * 64

    config, _ = load(prepared, prepared / "a")
    with pytest.raises(ValueError, match=r"a' was prepared with another tokenizer .*ffffffffffff"):
        training_text.load_text(config, Other())


@pytest.mark.parametrize("limit", [1, 2, 3, 4, 7])
def test_validation_text_is_cut_between_characters(tmp_path, limit):
    path = write(tmp_path, {"a.txt": "€".encode() * 60, "b.txt": "é".encode() * 60}) / "*.txt"
    _, text = load(tmp_path, path, data__valid_bytes=limit, data__valid_fraction=0.4)
    assert len(text.valid_bytes) <= limit
    text.valid_bytes.decode()


def test_a_checkpoint_of_a_mixture_continues_in_the_middle_of_an_epoch(prepared, tmp_path):
    def batches():
        path = f"{prepared}/a:0.5,{prepared}/b:0.5"
        return training_text.train_batches(*load(prepared, path), ALL)

    iterator = batches()
    for _ in range(33):
        next(iterator)
    ocp.save_checkpointables(tmp_path / "checkpoint", {"data": iterator})
    restored = batches()
    ocp.load_checkpointables(tmp_path / "checkpoint", {"data": restored})
    for _ in range(10):
        np.testing.assert_array_equal(next(restored)["inputs"], next(iterator)["inputs"])
