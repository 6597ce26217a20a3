"""Reading a corpus from every kind of place, and a split whose two sides share nothing."""

import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from titans_jax.data.sources import Document, read_documents, split_documents


def write(root, files):
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(text)


def test_bytes_are_one_document():
    assert read_documents(b"abc") == [Document("bytes", b"abc")]


def test_a_file_is_one_document(tmp_path):
    write(tmp_path, {"book.txt": b"text\r\n\xff"})
    assert read_documents(tmp_path / "book.txt") == [Document("book.txt", b"text\r\n\xff")]


def test_a_byte_order_mark_is_no_text(tmp_path):
    mark = b"\xef\xbb\xbf"
    write(tmp_path, {"a/one.txt": mark + b"text", "a/two.txt": b"in " + mark, "a/none.txt": mark})
    one, two = Document("one.txt", b"text"), Document("two.txt", b"in " + mark)
    assert read_documents(tmp_path / "a") == [one, two]
    assert read_documents(tmp_path / "a" / "one.txt") == [one]
    with pytest.raises(ValueError, match="is an empty file"):
        read_documents(tmp_path / "a" / "none.txt")


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("b.jsonl", b"{}", r"b.jsonl' is no text file \(JSON Lines\); .*prepare_data"),
        ("b.parq", b"PAR1", r"b.parq' is no text file \(Parquet\)"),
        ("b.json", b"[]", r"b.json' is no text file \(JSON\)"),
        ("b.txt.gz", b"\x1f\x8b", r"b.txt.gz' is no text file \(compressed\)"),
        ("b.dat", b"ab\x00", "b.dat' is no text: byte 2 is zero"),
    ],
)
def test_what_is_no_text_is_refused_by_name(tmp_path, name, text, said):
    write(tmp_path, {"in/a.txt": b"text", f"in/{name}": text})
    for path in (tmp_path / "in" / name, tmp_path / "in", tmp_path / "in" / "*"):
        with pytest.raises(ValueError, match=said):
            read_documents(path)


def test_the_home_folder_may_be_written_as_a_tilde(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    write(tmp_path, {"a.txt": b"text"})
    assert read_documents("~/a.txt") == [Document("a.txt", b"text")]


def test_a_folder_is_read_recursively_in_sorted_order_without_hidden_and_empty_files(tmp_path):
    files = {"b.txt": b"2", "a/z.txt": b"1", "c.txt": b"", ".git/x": b"no", "a/.hidden": b"no"}
    write(tmp_path, files)
    assert read_documents(str(tmp_path)) == [Document("a/z.txt", b"1"), Document("b.txt", b"2")]


@pytest.mark.parametrize(
    ("pattern", "names"),
    [("*.txt", ["b.txt"]), ("**/*.txt", ["a/z.txt", "b.txt"]), ("a/*", ["a/y.md", "a/z.txt"])],
)
def test_a_glob_reads_what_matches(tmp_path, pattern, names):
    write(tmp_path, {"b.txt": b"1", "a/z.txt": b"2", "a/y.md": b"3"})
    found = [document.name for document in read_documents(str(tmp_path / pattern))]
    assert [name.split("/")[-1] for name in found] == [name.split("/")[-1] for name in names]


def test_a_file_whose_name_looks_like_a_glob_is_a_file(tmp_path):
    write(tmp_path, {"[1].txt": b"text"})
    assert read_documents(str(tmp_path / "[1].txt"))[0].text == b"text"


def test_the_standard_library_is_megabytes_of_sources_and_nothing_but_sources():
    documents = read_documents("stdlib")
    names = [document.name for document in documents]
    assert names == sorted(set(names))
    assert {"argparse.py", "json/decoder.py", "asyncio/tasks.py"} <= set(names)
    assert all(name.endswith(".py") for name in names)
    parts = {part for name in names for part in name.split("/")}
    assert parts.isdisjoint({"site-packages", "test", "tests", "__pycache__", "idlelib"})
    assert {name.split("/")[0].removesuffix(".py") for name in names} <= sys.stdlib_module_names
    assert sum(len(document.text) for document in documents) > 6e6
    assert documents == read_documents("stdlib")


def test_a_python_without_its_sources_says_so(tmp_path, monkeypatch):
    monkeypatch.setattr("sysconfig.get_paths", lambda: {"stdlib": str(tmp_path)})
    with pytest.raises(FileNotFoundError, match=r'"stdlib".*no \.py sources.*give a text file'):
        read_documents("stdlib")


@pytest.mark.parametrize(
    ("path", "error", "message"),
    [
        ("nowhere.txt", FileNotFoundError, r"nowhere\.txt' does not exist.*give a file, a folder"),
        ("empty.txt", ValueError, r"empty\.txt' is an empty file"),
        ("folder", ValueError, r"folder .*no non-empty file"),
        ("*.md", ValueError, r"glob .*\*\.md.*no non-empty file"),
    ],
)
def test_a_bad_path_is_named(tmp_path, path, error, message):
    write(tmp_path, {"empty.txt": b"", "folder/also_empty": b""})
    with pytest.raises(error, match=message):
        read_documents(str(tmp_path / path))


@pytest.mark.parametrize("nothing", ["", b""])
def test_an_empty_argument_is_refused(nothing):
    with pytest.raises(ValueError, match="empty"):
        read_documents(nothing)


corpora = st.lists(st.binary(min_size=8, max_size=40), min_size=1, max_size=12, unique=True).map(
    lambda texts: [Document(f"{i:02}", text) for i, text in enumerate(texts)]
)


@settings(max_examples=50)
@given(corpora, st.floats(0.05, 0.6), st.integers(0, 3))
def test_a_split_keeps_every_byte_once_and_never_overlaps(documents, fraction, seed):
    train, valid = split_documents(documents, fraction, seed)
    assert train
    assert valid
    # Put the tail that was cut off back where it came from: nothing is lost, nothing is twice.
    rebuilt = {document.name: document.text for document in train}
    for document in valid:
        name = document.name.split(" ")[0]
        rebuilt[name] = rebuilt.get(name, b"") + document.text
    assert rebuilt == {document.name: document.text for document in documents}
    assert len(train) + len(valid) <= len(documents) + 1


def test_a_single_text_gives_its_tail():
    text = bytes(range(65, 91)) * 100
    train, valid = split_documents([Document("one", text)], 0.1)
    assert train[0].text + valid[0].text == text
    assert len(valid[0].text) == 260
    assert valid[0].name == "one (from byte 2340)"


def test_a_tail_never_starts_inside_a_character():
    for size in range(20, 32):
        train, valid = split_documents([Document("one", "a€".encode() * size)], 0.1)
        assert train[0].text.decode() + valid[0].text.decode() == "a€" * size


def test_many_texts_are_held_out_whole_about_as_many_bytes_as_wanted():
    documents = [Document(f"{i}", b"x" * (100 + i)) for i in range(200)]
    train, valid = split_documents(documents, 0.1)
    total = sum(len(document.text) for document in documents)
    held_out = sum(len(document.text) for document in valid)
    assert 0.08 * total < held_out <= 0.1 * total
    assert set(train) | set(valid) == set(documents)
    assert len(train) + len(valid) == len(documents)
    assert train == sorted(train, key=documents.index)


def test_another_seed_holds_out_other_documents_and_other_files_do_not_matter():
    documents = [Document(f"{i}", b"%03d" % i * 10) for i in range(100)]
    valid = {d.name for d in split_documents(documents, 0.2, seed=0)[1]}
    assert valid == {d.name for d in split_documents(documents, 0.2, seed=0)[1]}
    assert valid != {d.name for d in split_documents(documents, 0.2, seed=1)[1]}


@pytest.mark.parametrize("copies", [2, 3])
def test_copies_of_a_text_never_straddle_the_split(copies):
    documents = [Document(f"{i}-{c}", b"%02d" % i * 9) for i in range(9) for c in range(copies)]
    for seed in range(5):
        train, valid = split_documents(documents, 0.3, seed)
        for held_out in valid:
            assert all(held_out.text not in document.text for document in train)


def test_a_tail_is_cut_off_every_copy_of_its_text():
    text = bytes(range(100))
    train, valid = split_documents([Document("a", text), Document("b", text)], 0.2)
    assert [document.text for document in train] == [text[:60], text[:60]]
    assert [document.text for document in valid] == [text[60:]]


@pytest.mark.parametrize("fraction", [0.0, 1.0, -0.1, float("nan")])
def test_a_fraction_outside_its_range_is_named(fraction):
    with pytest.raises(ValueError, match=f"valid_fraction is {fraction}"):
        split_documents([Document("a", b"some text")], fraction)


@pytest.mark.parametrize("texts", [[b"a"], [b"a", b"a", b"a"]])
def test_a_text_too_short_to_divide_is_refused(texts):
    with pytest.raises(ValueError, match="the data"):
        split_documents([Document(str(i), text) for i, text in enumerate(texts)], 0.5)
