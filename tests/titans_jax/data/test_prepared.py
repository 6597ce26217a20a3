"""Prepared folders: every document comes back, by random access, and no damage goes unnoticed."""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.titans_jax.data.prepared_folder import START, numbered, write_prepared
from titans_jax.data import shards as shards_module
from titans_jax.data.prepared import MANIFEST, PLAN, is_prepared, open_prepared
from titans_jax.data.shards import BLOCK, ShardWriter, token_dtype


def with_start(documents):
    return [np.concatenate([[START], document]).astype(np.int32) for document in documents]


@settings(max_examples=10)
@given(
    st.lists(
        st.lists(st.sampled_from([1, 7, 2046, 2047, 2048, 5000]), max_size=4),
        min_size=1,
        max_size=3,
    ).filter(any)
)
def test_every_document_comes_back_whatever_shards_and_blocks_it_lies_in(tmp_path_factory, sizes):
    flat = numbered(*(n for shard in sizes for n in shard))
    rest = iter(flat)
    folder = tmp_path_factory.mktemp("prepared")
    write_prepared(folder, [[next(rest) for _ in shard] for shard in sizes], vocab_size=100_000)
    documents = open_prepared(folder).documents
    assert len(documents) == len(flat)
    for actual, expected in zip(documents, with_start(flat), strict=True):
        assert actual.dtype == np.int32
        np.testing.assert_array_equal(actual, expected)
    np.testing.assert_array_equal(documents[-1], with_start(flat)[-1])
    stream = np.concatenate(with_start(flat))
    assert documents.starts[-1] == len(stream)
    assert documents.target_tokens == documents.target_bytes == len(stream) - len(flat)
    for start, stop in ((0, len(stream)), (len(stream) // 3, len(stream) // 2), (5, 5)):
        np.testing.assert_array_equal(documents.read(start, stop), stream[start:stop])


@pytest.mark.parametrize(("vocab_size", "width"), [(256, 1), (257, 2), (65_536, 2), (65_537, 4)])
def test_ids_take_the_narrowest_type_and_its_largest_comes_back(tmp_path, vocab_size, width):
    assert token_dtype(vocab_size).itemsize == width
    document = np.array([0, vocab_size - 1], np.int32)
    write_prepared(tmp_path, [[document]], vocab_size=vocab_size)
    np.testing.assert_array_equal(open_prepared(tmp_path).documents[0][1:], document)


@pytest.mark.parametrize("token", [-1, 300])
def test_an_id_outside_the_vocabulary_is_not_written(tmp_path, token):
    writer = ShardWriter(tmp_path, "tokens", 300, START)
    with pytest.raises(ValueError, match=rf"{token}.*\[0, 300\)"):
        writer.add([(np.array([5, token], np.int32), 2)])


def test_a_document_without_tokens_leaves_nothing(tmp_path):
    writer = ShardWriter(tmp_path, "tokens", 300, START)
    assert not writer.add([])
    assert not writer.add([(np.zeros(0, np.int32), 3)])
    assert writer.close() is None
    assert not list(tmp_path.iterdir())


def test_a_read_takes_the_records_it_needs_and_no_others(tmp_path, monkeypatch):
    write_prepared(tmp_path, [numbered(20 * BLOCK), numbered(3)])
    read = []
    record = shards_module.Shard._record
    monkeypatch.setattr(
        shards_module.Shard,
        "_record",
        lambda shard, reader, n: read.append((shard.info.name, n)) or record(shard, reader, n),
    )
    documents = open_prepared(tmp_path).documents
    assert len(documents) == 2
    assert documents.starts.tolist() == [0, 20 * BLOCK + 1, 20 * BLOCK + 5]
    assert read == []
    documents.read(7 * BLOCK - 1, 8 * BLOCK)
    documents[1]
    assert read == [("tokens-00000", 6), ("tokens-00000", 7), ("tokens-00001", 0)]


def test_held_out_text_is_read_as_far_as_asked_for(tmp_path):
    texts = (b"one", "zw€i".encode(), b"three")
    write_prepared(tmp_path, [numbered(5)], held_out=texts)
    prepared = open_prepared(tmp_path)
    assert [d.text for d in prepared.valid_documents()] == list(texts)
    assert [d.text for d in prepared.valid_documents(3)] == [b"one"]
    assert [d.text for d in prepared.valid_documents(4)] == [b"one", "zw€i".encode()]


def flip(path, position):
    content = bytearray(path.read_bytes())
    content[position] ^= 0xFF
    path.write_bytes(content)


@pytest.fixture
def folder(tmp_path):
    """Two shards; the second has three records."""
    second = [np.random.default_rng(0).integers(0, 50_000, 2 * BLOCK + 9, np.int32)]
    return write_prepared(tmp_path / "prepared", [numbered(3), second])


@pytest.mark.parametrize("name", ["tokens-00001.array_record", "tokens-00001.documents.npy"])
def test_a_missing_or_truncated_shard_is_named(folder, name):
    path = folder / name
    whole = path.read_bytes()
    path.write_bytes(whole[:-10])
    with pytest.raises(ValueError, match=rf"{name} is (truncated: it has .* bytes|not what)"):
        open_prepared(folder)
    path.unlink()
    with pytest.raises(FileNotFoundError, match=f"{name} is missing"):
        open_prepared(folder)
    path.write_bytes(whole)
    open_prepared(folder)


def test_a_record_that_was_altered_is_named_with_its_file(folder):
    path = folder / "tokens-00001.array_record"
    (second,) = open_prepared(folder).documents.shards[1].open().read([1])
    flip(path, path.read_bytes().index(second[:16]) + 500)
    documents = open_prepared(folder).documents
    np.testing.assert_array_equal(documents[0][1:], numbered(3)[0])
    with pytest.raises(ValueError, match=r"tokens-00001\.array_record, record 1: "):
        documents[1]


def test_any_altered_byte_of_a_shard_is_an_error_or_changes_nothing(folder):
    path = folder / "tokens-00000.array_record"
    whole = path.read_bytes()
    errors = []
    for position in [*range(0, 256, 4), *range(256, len(whole), len(whole) // 100)]:
        flip(path, position)
        try:
            document = open_prepared(folder).documents[0]
        except ValueError as error:
            errors.append(str(error))
        else:
            np.testing.assert_array_equal(document[1:], numbered(3)[0])
        path.write_bytes(whole)
    assert errors
    assert all(path.name in error for error in errors)


def test_a_shard_in_place_of_another_is_named(folder):
    for name in ("tokens-00000.array_record", "tokens-00001.array_record"):
        assert (folder / name).is_file()
    manifest = json.loads((folder / MANIFEST).read_text())
    for field, value, message in (
        ("tokens", 2 * BLOCK, "counts 1 documents and 4106 tokens, the manifest 1 and 4096"),
        ("documents", 2, "counts 1 documents and 4106 tokens, the manifest 2 and 4106"),
        ("table_sha256", "0" * 64, "SHA-256 differs"),
        ("size", 10**9, "truncated"),
        ("size", 10, "altered"),
    ):
        changed = json.loads(json.dumps(manifest))
        changed["shards"][1][field] = value
        (folder / MANIFEST).write_text(json.dumps(changed))
        with pytest.raises(ValueError, match=f"tokens-00001.*{message}"):
            open_prepared(folder)


def test_a_shard_of_too_few_records_is_named(folder):
    # The first shard's records, under the name and size that the manifest has for the second.
    path = folder / "tokens-00001.array_record"
    path.write_bytes((folder / "tokens-00000.array_record").read_bytes())
    manifest = json.loads((folder / MANIFEST).read_text())
    manifest["shards"][1]["size"] = path.stat().st_size
    (folder / MANIFEST).write_text(json.dumps(manifest))
    with pytest.raises(ValueError, match=r"tokens-00001.*has 1 records, the manifest says 3"):
        open_prepared(folder)


def test_altered_held_out_text_is_named(folder):
    flip(folder / "valid.txt", 3)
    with pytest.raises(ValueError, match=r"valid\.txt, document 0.*CRC-32"):
        open_prepared(folder).valid_documents()
    (folder / "valid.txt").write_bytes(b"held")
    with pytest.raises(ValueError, match=r"valid\.txt has 4 bytes, the manifest says 8"):
        open_prepared(folder)


@pytest.mark.parametrize(
    "content", ["", "{", "[]", "{}", '{"format": "other", "block": 2048, "shards": []}']
)
def test_a_manifest_that_is_none_is_named(folder, content):
    (folder / MANIFEST).write_text(content)
    with pytest.raises(ValueError, match=r"manifest .*manifest\.json cannot be read"):
        open_prepared(folder)


def test_an_unfinished_preparation_and_another_folder_are_told_apart(folder, tmp_path):
    (folder / MANIFEST).unlink()
    assert not is_prepared(folder)
    with pytest.raises(FileNotFoundError, match=r"give a folder that experiments\.prepare_data"):
        open_prepared(folder)
    (folder / PLAN).write_text("{}")
    assert is_prepared(folder)
    with pytest.raises(FileNotFoundError, match="not finished; give its command again"):
        open_prepared(folder)


def test_the_fingerprint_is_that_of_the_contents(tmp_path):
    prints = [
        open_prepared(write_prepared(tmp_path / name, [documents])).manifest.fingerprint()
        for name, documents in (
            ("a", numbered(30)), ("b", numbered(30)), ("c", numbered(30, first=3)), ("d", numbered(15, 15))
        )
    ]  # fmt: skip
    assert prints[0] == prints[1]
    assert len(set(prints)) == 3


@pytest.mark.parametrize("name", ["../x", "/etc/x", "a\\..\\x", "C:/x", "", "a/../../x"])
def test_a_manifest_names_no_file_outside_of_its_folder(tmp_path, name):
    folder = write_prepared(tmp_path / "p", [numbered(5)])
    manifest = json.loads((folder / MANIFEST).read_text())
    manifest["shards"][0]["name"] = name
    (folder / MANIFEST).write_text(json.dumps(manifest))
    with pytest.raises(ValueError, match="leads out of its folder"):
        open_prepared(folder)
