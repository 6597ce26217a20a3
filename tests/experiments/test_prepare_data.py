"""Preparing text: the same bytes however it is shared out and interrupted, and nothing that is wrong goes unsaid."""

import collections
import contextlib
import itertools
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from pyarrow import parquet

from experiments.prepare import run as run_module
from experiments.prepare import shard_maker
from experiments.prepare import workers as workers_module
from experiments.prepare.held_out import Rule, document_key, tail_start
from experiments.prepare.inputs import input_file, read_part, split_file
from experiments.prepare.plan import Settings, make_plan
from experiments.prepare.run import prepare
from tests.experiments.preparations import NOTHING_HELD_OUT, lines, run, write
from titans_jax.data.prepared import open_prepared
from titans_jax.data.sources import SourceFile, find_files
from titans_jax.data.tokenizers import ByteTokenizer


def write_parquet(path, texts, column="text", **options):
    parquet.write_table(pa.table({"id": range(len(texts)), column: texts}), path, **options)


def texts_of(folder) -> list[bytes]:
    prepared = open_prepared(folder)
    training_texts = [ByteTokenizer().decode(document[1:]) for document in prepared.documents]
    return training_texts + [document.text for document in prepared.valid_documents()]


def contents(folder) -> dict[str, bytes]:
    return {
        p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()
    }


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    """Files of every kind with 400 documents, among them two empty ones and one that is not UTF-8."""
    folder = tmp_path_factory.mktemp("corpus")
    texts = [f"document {n} " * (1 + n % 37) for n in range(400)]
    texts[123] = texts[234] = ""
    write(folder, {f"text/{n:03d}.txt": texts[n].encode() for n in range(100)})
    write(folder, {"text/050.txt": b"caf\xe9 and " + "café".encode()})
    write(folder, {"b.jsonl": lines(texts[100:300])})
    write_parquet(folder / "c.parquet", texts[300:], row_group_size=20)
    return folder


SMALL_SHARDS = {"shard_bytes": 9000, "valid_fraction": 0.1}


@pytest.fixture(scope="module")
def undisturbed(corpus, tmp_path_factory):
    folder = tmp_path_factory.mktemp("undisturbed") / "prepared"
    outcome = run(corpus, folder, **SMALL_SHARDS)
    assert len(outcome.manifest.shards) == outcome.made > 5
    return folder


def test_every_document_of_every_kind_of_file_is_there_once(undisturbed):
    expected = [f"document {n} " * (1 + n % 37) for n in range(400) if n not in (50, 123, 234)]
    expected.append("caf\ufffd and café")
    found = [text.decode() for text in texts_of(undisturbed)]
    assert sorted(found) == sorted(expected)
    prepared = open_prepared(undisturbed)
    held_out = prepared.valid_documents()
    assert 20 < len(held_out) < 60
    assert {"text", "document"} >= {
        d.text.split()[0].decode() for d in held_out if d.text[:3] != b"caf"
    }
    counts = prepared.manifest.counts
    assert counts["documents"] == len(found) - len(held_out) == len(prepared.documents)
    assert counts["bytes"] + prepared.manifest.valid_bytes == sum(len(t.encode()) for t in found)
    assert counts["tokens"] == counts["bytes"] + counts["documents"]


def test_what_was_not_as_it_should_be_is_counted_by_file(undisturbed):
    manifest = open_prepared(undisturbed).manifest
    assert manifest.irregular == {
        "b.jsonl": {shard_maker.EMPTY: 2},
        "text/050.txt": {shard_maker.INVALID_UTF8: 1},
    }
    assert manifest.counts[shard_maker.EMPTY] == 2
    assert manifest.counts[shard_maker.INVALID_UTF8] == 1


def test_three_workers_write_the_bytes_of_one(corpus, undisturbed, tmp_path):
    outcome = run(corpus, tmp_path / "prepared", workers=3, **SMALL_SHARDS)
    assert outcome.made > 5
    assert contents(tmp_path / "prepared") == contents(undisturbed)


@pytest.mark.parametrize("documents", [7, 130, 321])
def test_a_preparation_that_was_stopped_anywhere_continues_to_the_same_bytes(
    corpus, undisturbed, tmp_path, monkeypatch, documents
):
    folder = tmp_path / "prepared"
    key, seen = document_key, []

    def stop(text):
        seen.append(text)
        if len(seen) == documents:
            raise KeyboardInterrupt
        return key(text)

    with monkeypatch.context() as patch:
        patch.setattr(shard_maker, "document_key", stop)
        with pytest.raises(KeyboardInterrupt):
            run(corpus, folder, **SMALL_SHARDS)
    assert not (folder / "manifest.json").exists()
    finished = {p: p.stat().st_mtime_ns for p in folder.glob("tokens-*")}
    outcome = run(corpus, folder, **SMALL_SHARDS)
    assert outcome.kept >= len(finished) // 2
    assert bool(finished) == (documents > 100)
    assert {p: p.stat().st_mtime_ns for p in finished} == finished  # kept, not made again
    assert contents(folder) == contents(undisturbed)


KILLED = """
import os, signal, sys
from experiments.prepare import shard_maker
from experiments.prepare import workers as workers_module
from tests.experiments.preparations import run
from tests.experiments.test_prepare_data import SMALL_SHARDS
write = shard_maker.write_whole
def and_die(path, text):
    if path.name == "report-00003.json":
        os.kill(os.getpid(), signal.SIGKILL)
    write(path, text)
shard_maker.write_whole = and_die
run(sys.argv[1], __import__("pathlib").Path(sys.argv[2]), **SMALL_SHARDS)
"""


@pytest.mark.slow
def test_a_killed_preparation_continues_to_the_same_bytes(corpus, undisturbed, tmp_path):
    folder = tmp_path / "prepared"
    killed = subprocess.run(
        [sys.executable, "-c", KILLED, str(corpus), str(folder)],
        timeout=120,
        check=False,
        capture_output=True,
        text=True,
    )
    assert killed.returncode == -9, killed.stderr
    assert (folder / "tokens-00003.array_record").exists()
    assert run(corpus, folder, **SMALL_SHARDS).kept == 3
    assert contents(folder) == contents(undisturbed)


def test_a_finished_shard_that_was_damaged_meanwhile_is_made_again(
    corpus, undisturbed, tmp_path, monkeypatch
):
    folder = tmp_path / "prepared"
    with monkeypatch.context() as patch:
        patch.setattr(run_module, "_finish", lambda *args: pytest.fail("stopped here"))
        with pytest.raises(pytest.fail.Exception):
            run(corpus, folder, **SMALL_SHARDS)
    for name in (
        "tokens-00001.array_record",
        "tokens-00002.documents.npy",
        "unfinished/valid-00003.txt",
    ):
        path = folder / name
        path.write_bytes(path.read_bytes()[:-1])
    outcome = run(corpus, folder, **SMALL_SHARDS)
    assert outcome.made == 3
    assert contents(folder) == contents(undisturbed)


def test_what_is_complete_is_left_alone_and_another_plan_is_refused(tmp_path):
    source = write(tmp_path / "source", {"a.txt": b"a text", "b.txt": b"another"})
    folder = tmp_path / "prepared"
    run(source, folder)
    before = contents(folder)
    outcome = run(source, folder)
    assert (outcome.kept, outcome.made) == (1, 0)
    assert contents(folder) == before
    with pytest.raises(ValueError, match=r"(?s)something else:.*--field: 'text' then, 'body' now"):
        run(source, folder, field="body")
    write(source, {"a.txt": b"changed", "c.txt": b"new"})
    (source / "b.txt").unlink()
    with pytest.raises(ValueError, match=r"(?s)a\.txt: changed.*b\.txt: gone.*c\.txt: new"):
        run(source, folder)
    with pytest.raises(ValueError, match="holds other files"):
        run(source, source)
    assert contents(folder) == before


def test_two_preparations_at_a_time_are_refused(corpus, tmp_path, monkeypatch):
    def second(*args):
        with pytest.raises(ValueError, match=r"--output=.*: process \d+ on .* is at work there"):
            run(corpus, tmp_path / "prepared")
        raise KeyboardInterrupt

    monkeypatch.setattr(run_module, "_finish", second)
    with pytest.raises(KeyboardInterrupt):
        run(corpus, tmp_path / "prepared")


@settings(max_examples=20)
@given(
    st.lists(st.text(max_size=30), min_size=1, max_size=12),
    st.integers(8, 200),
    st.sampled_from(["jsonl", "parquet"]),
)
def test_a_file_gives_its_documents_in_order_wherever_it_is_divided(
    tmp_path_factory, texts, shard_bytes, kind
):
    texts = [text.encode(errors="replace").decode() for text in texts]  # no halves of pairs
    folder = tmp_path_factory.mktemp("divided")
    if kind == "jsonl":
        write(folder, {"in.jsonl": lines(texts).replace(b"\n", b"\n\n")[:-1]})
    else:
        write_parquet(folder / "in.parquet", texts, row_group_size=2)
    if not any(texts):
        with pytest.raises(
            ValueError, match="there is nothing to train on: all documents are empty"
        ):
            run(folder, folder / "out", shard_bytes=shard_bytes, **NOTHING_HELD_OUT)
        return
    run(folder / f"in.{kind}", folder / "out", shard_bytes=shard_bytes, **NOTHING_HELD_OUT)
    assert texts_of(folder / "out") == [text.encode() for text in texts if text]


@settings(max_examples=50)
@given(
    st.lists(
        st.sampled_from([b"ab", b"\n", b" ", "€".encode(), b"\xff", b"\x80\x80"]), max_size=60
    ),
    st.integers(8, 40),
)
@example(["€".encode()] * 20, 10)
@example([b"\x80\x80"] * 20, 9)
@example([b"ab", b"ab", b"ab", b" ", b"ab", b"ab", b"ab"], 8)
def test_a_text_is_cut_without_loss_and_replaced_as_a_whole_would_be(pieces, most):
    text = b"".join(pieces)
    found = list(shard_maker.cut(text, 0, len(text), most))
    assert b"".join(piece for _, piece in found) == text
    assert all(0 < len(piece) <= most for _, piece in found)
    assert [text[start : start + len(piece)] for start, piece in found] == [p for _, p in found]
    for start, piece in found[:-1]:
        last = text[start + most // 2 : start + most]
        for end in (b"\n", b" "):
            if end in last:
                assert piece.endswith(end)
                assert end not in text[start + len(piece) : start + most]
                break
    if b"\x80\x80" not in pieces:
        replaced = "".join(piece.decode(errors="replace") for _, piece in found)
        assert replaced == text.decode(errors="replace")


def test_a_text_longer_than_a_piece_is_one_document(tmp_path, monkeypatch):
    monkeypatch.setattr(shard_maker, "PIECE", 64)
    text = "".join(f"line {n} é\n" for n in range(2000)).encode()
    write(tmp_path, {"long.txt": text, "invalid.txt": b"x" * 100 + b"\xff" + b"y" * 100})
    run(tmp_path / "*.txt", tmp_path / "out", **NOTHING_HELD_OUT)
    assert texts_of(tmp_path / "out") == [b"x" * 100 + "\ufffd".encode() + b"y" * 100, text]


def test_an_unpaired_surrogate_and_invalid_bytes_in_json_and_parquet_are_replaced_and_counted(
    tmp_path,
):
    write(tmp_path, {"a.jsonl": b'{"text": "x\\ud800y"}\n{"text": "caf\xe9"}\n{"text": null}\n'})
    write_parquet(tmp_path / "b.parquet", pa.array([b"\xffz", None, b"fine"], pa.binary()))
    manifest = run(tmp_path, tmp_path / "out", **NOTHING_HELD_OUT).manifest
    assert texts_of(tmp_path / "out") == [
        "x\ufffd\ufffd\ufffdy".encode(), "caf\ufffd".encode(), "\ufffdz".encode(), b"fine"
    ]  # fmt: skip
    assert manifest.irregular == {
        "a.jsonl": {shard_maker.EMPTY: 1, shard_maker.INVALID_UTF8: 2},
        "b.parquet": {shard_maker.EMPTY: 1, shard_maker.INVALID_UTF8: 1},
    }


def test_copies_of_a_document_are_held_out_together(tmp_path):
    texts = [f"text {n}" for n in range(100)]
    write(tmp_path, {"a.jsonl": lines(texts * 2), "b.jsonl": lines(texts)})
    run(tmp_path, tmp_path / "out", valid_fraction=0.2, shard_bytes=500)
    prepared = open_prepared(tmp_path / "out")
    held_out = collections.Counter(document.text for document in prepared.valid_documents())
    assert 10 < len(held_out) < 30
    assert set(held_out.values()) == {3}
    assert held_out.keys().isdisjoint(ByteTokenizer().decode(d[1:]) for d in prepared.documents)


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize("sizes", [(60,) * 6, (5, 3000), (3000, 5)])
def test_of_a_few_documents_about_the_wanted_bytes_are_held_out(tmp_path, workers, sizes):
    """Never a whole document that is most of the text, nor one that is next to nothing of it."""
    texts = {f"{n}.txt": b"%d" % n * size for n, size in enumerate(sizes)}
    write(tmp_path / "in", texts)
    run(tmp_path / "in", tmp_path / "out", workers, shard_bytes=100, valid_fraction=0.1)
    prepared = open_prepared(tmp_path / "out")
    held_out = sum(len(document.text) for document in prepared.valid_documents())
    assert sum(sizes) * 0.1 / 3 <= held_out <= sum(sizes) * 0.3
    assert sum(map(len, texts_of(tmp_path / "out"))) == sum(sizes)


def test_a_fraction_that_holds_out_nothing_is_refused(tmp_path):
    write(tmp_path / "in", {"a.txt": b"a", "b.txt": b"b"})
    with pytest.raises(ValueError, match=r"--valid_fraction=1e-09 .*give a larger fraction, or 0"):
        run(tmp_path / "in", tmp_path / "out", valid_fraction=1e-9)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            b'{"text": "a"}\n{"body": "b"}\n',
            r"line 2: there is no field --field='text'; it has 'body'",
        ),
        (
            b'{"text": "a"}\n\n{"text": 3}\n',
            r"line 3: field 'text' is of type int; it must be text",
        ),
        (b'{"text": "a"}\n["text"]\n', r"line 2: an object was expected, found list"),
        (b'{"text": "a"}\n{"text": "b', r"line 2: no JSON .*is the file truncated"),
    ],
)
@pytest.mark.parametrize("shard_bytes", [12, 1000])
def test_a_line_that_holds_no_document_is_named(tmp_path, content, message, shard_bytes):
    write(tmp_path, {"in.jsonl": content})
    with pytest.raises(ValueError, match=r"input file 'in\.jsonl', " + message):
        run(tmp_path / "in.jsonl", tmp_path / "out", shard_bytes=shard_bytes)


def test_invalid_utf8_can_be_an_error_that_names_file_and_place(tmp_path):
    write(
        tmp_path,
        {
            "b.txt": b"ab\xffc",
            "c.jsonl": b'{"text": "a"}\n{"text": "\xff"}',
            "long.txt": b"x" * 99 + b"\xff",
        },
    )
    rows = pa.array([b"fine"] * 7 + [b"a\xff"], pa.binary())
    write_parquet(tmp_path / "d.parquet", rows, row_group_size=2)
    for name, message in (
        ("b.txt", "'b.txt': byte 2"),
        ("c.jsonl", "'c.jsonl', line 2: byte 0"),
        ("d.parquet", "'d.parquet', row 7 .the first is 0.: byte 1"),
        ("long.txt", "'long.txt': byte 99"),
    ):
        with pytest.raises(ValueError, match=f"input file {message} of the text is no UTF-8"):
            run(tmp_path / name, tmp_path / f"out-{name}", invalid_utf8="fail", shard_bytes=50)


@pytest.mark.parametrize("left", [0, 1 << 14, 40_000])
def test_a_file_that_shrinks_while_it_is_read_is_named(tmp_path, left):
    line = lines(["x"])
    # As long as the buffers of a file, so that a line's end is also where reading stops.
    text = "x" * ((1 << 14) - len(line) + 1)
    path = write(tmp_path, {"a.jsonl": lines([text] * 9)}) / "a.jsonl"
    file = input_file(SourceFile("a.jsonl", path))
    (part,) = split_file(0, file, "text", 1 << 30)
    documents = read_part(file, part, "text", "text")
    next(documents)
    os.truncate(path, left)
    with pytest.raises(ValueError, match=r"'a\.jsonl', line .*(the file ends here|no JSON)"):
        list(documents)


def test_damaged_and_unfit_input_is_named(tmp_path):
    write_parquet(tmp_path / "good.parquet", ["a" * 1000, "b" * 1000], row_group_size=1)
    content = (tmp_path / "good.parquet").read_bytes()
    write(tmp_path, {"short.parquet": content[:-9], "x.txt.gz": b"", "empty/.hidden": b"x"})
    write_parquet(tmp_path / "numbers.parquet", [1, 2])
    for source, changes, error, message in (
        (
            "good.parquet",
            {"column": "body"},
            ValueError,
            r"no column --column='body'; it has id, text",
        ),
        ("short.parquet", {}, ValueError, r"'short\.parquet' cannot be read as Parquet"),
        ("numbers.parquet", {}, ValueError, r"column 'text' is of type int64; it must be text"),
        ("x.txt.gz", {}, ValueError, r"'x\.txt\.gz' is compressed"),
        ("empty", {}, FileNotFoundError, r"--input=.*empty: no file matches"),
        ("nowhere", {}, FileNotFoundError, r"--input: path .*nowhere' does not exist"),
    ):
        with pytest.raises(error, match=message):
            run(tmp_path / source, tmp_path / "out", **changes)
    assert not (tmp_path / "out").exists()


def test_a_file_that_changes_meanwhile_is_named(tmp_path):
    write(tmp_path, {"a.txt": b"before"})
    plan = make_plan(str(tmp_path / "a.txt"), Settings(), ByteTokenizer().fingerprint())
    write(tmp_path, {"a.txt": b"afterwards"})
    with pytest.raises(ValueError, match=r"input file 'a\.txt' was changed"):
        prepare(plan, tmp_path / "out", "bytes", 1, lambda weight: None)


@pytest.mark.parametrize(
    ("flag", "value"),
    [
        ("valid_fraction", 1.0),
        ("valid_fraction", -0.1),
        ("invalid_utf8", "skip"),
        ("shard_bytes", 0),
    ],
)
def test_a_setting_that_cannot_work_is_named(flag, value):
    with pytest.raises(ValueError, match=f"--{flag}={value}: must be"):
        Settings(**{flag: value})


@pytest.mark.parametrize("copies", [1, 3])
def test_of_a_single_text_and_its_copies_the_tail_is_held_out(tmp_path, copies):
    text = "".join(f"line {n} é\n" for n in range(200)).encode()
    write(tmp_path / "in", {f"{n}.txt": text for n in range(copies)})
    run(tmp_path / "in", tmp_path / "out", shard_bytes=1000, valid_fraction=0.1)
    prepared = open_prepared(tmp_path / "out")
    heads = [ByteTokenizer().decode(document[1:]) for document in prepared.documents]
    tails = [document.text for document in prepared.valid_documents()]
    assert [head + tail for head, tail in zip(heads, tails, strict=True)] == [text] * copies
    assert len(set(heads)) == 1
    assert abs(len(tails[0]) - 0.1 * len(text)) < 4
    tails[0].decode()


@pytest.mark.parametrize("unit", [0, 1, 2])
@pytest.mark.parametrize("texts", ["aaa", "aab"])
def test_a_second_thought_that_was_stopped_is_carried_through(tmp_path, monkeypatch, unit, texts):
    # Nothing is held out at first, then tails are.
    write(tmp_path / "in", {f"{n}.txt": text.encode() * 100 for n, text in enumerate(texts)})
    changes = {"shard_bytes": 100, "valid_fraction": 1e-2}
    run(tmp_path / "in", tmp_path / "undisturbed", **changes)
    make = workers_module.make_unit
    for stop_at, within in itertools.product(range(2), (False, True)):
        folder, seen = tmp_path / f"stopped-{stop_at}-{within}", collections.Counter()

        def stopping(plan, number, *rest, folder=folder, seen=seen, at=stop_at, within=within):
            if seen[number] == at and number == unit:
                if within:
                    shard_maker.report_path(folder, number).unlink(missing_ok=True)
                raise KeyboardInterrupt
            seen[number] += 1
            return make(plan, number, *rest)

        monkeypatch.setattr(workers_module, "make_unit", stopping)
        with contextlib.suppress(KeyboardInterrupt):
            run(tmp_path / "in", folder, **changes)
        monkeypatch.setattr(workers_module, "make_unit", make)
        run(tmp_path / "in", folder, **changes)
        assert contents(folder) == contents(tmp_path / "undisturbed")


def test_a_report_does_not_outlive_the_files_that_it_is_of(tmp_path, monkeypatch):
    write(tmp_path / "in", {"a.txt": b"text"})
    plan = make_plan(str(tmp_path / "in"), Settings(), ByteTokenizer().fingerprint())
    arguments = plan, 0, ByteTokenizer(), tmp_path, Rule(0), lambda weight: None
    report = shard_maker.make_unit(*arguments)
    assert shard_maker.read_report(tmp_path, 0, 256) == report
    monkeypatch.setattr(shard_maker, "document_key", lambda text: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        shard_maker.make_unit(*arguments)
    assert shard_maker.read_report(tmp_path, 0, 256) is None


@given(st.integers(1, 40), st.floats(0, 1))
def test_a_tail_starts_between_characters(count, tail):
    start = tail_start("€".encode() * count, tail)
    assert start % 3 == 0
    assert abs(start - 3 * count * (1 - tail)) <= 3  # 3: a tail of less than a bit of the length


def command(pattern, output, *flags):
    """The program in a process of its own: flags of other programs, required ones too, are known in this one."""
    return subprocess.run(
        [sys.executable, "-m", "experiments.prepare_data", f"--input={pattern}", f"--output={output}",
         "--tokenizer=bytes", *flags],
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip


def test_the_command_says_what_it_did_and_ends_without_a_traceback(tmp_path):
    write(
        tmp_path / "in", {"a.txt": b"some text", "b.txt": b"", "c.txt": b"\xff", "d.txt": b"more"}
    )
    flags = ("--workers=1", "--valid_fraction=0")
    printed = command(tmp_path / "in" / "*.txt", tmp_path / "out", *flags)
    assert printed.returncode == 0, printed.stderr
    assert "3 documents, 19 tokens, 16 bytes of text in 1 shards" in printed.stdout
    assert "1 empty documents, left out: b.txt (1)" in printed.stdout
    assert (
        "1 documents with invalid UTF-8, bytes that are none replaced by U+FFFD: c.txt (1)"
        in printed.stdout
    )
    assert f"--config.data.path={tmp_path / 'out'} --config.data.tokenizer=bytes" in printed.stdout
    assert "100%" in printed.stderr
    failed = command(tmp_path / "nowhere", tmp_path / "out2")
    assert failed.returncode == 1
    assert failed.stderr.strip().splitlines()[-1].startswith("error: --input: path ")
    assert "Traceback" not in failed.stderr


# Kinds of files as other tools write them


MARK = b"\xef\xbb\xbf"


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.ndjson", lines(["one", "two"])),
        ("a.JSONL", MARK + lines(["one", "two"]).replace(b"\n", b"\r\n")),
    ],
)
def test_json_lines_by_other_names_and_with_a_byte_order_mark(tmp_path, name, content):
    write(tmp_path / "in", {name: content, "z.txt": MARK + b"three " + MARK})
    run(tmp_path / "in", tmp_path / "out", **NOTHING_HELD_OUT)
    assert texts_of(tmp_path / "out") == [b"one", b"two", b"three " + MARK]


@pytest.mark.parametrize("suffix", ["pq", "parq"])
@pytest.mark.parametrize(
    "column",
    [
        pa.array(["one", None, "two"]).dictionary_encode(),
        pa.array(["one", None, "two"], pa.string_view()),
        pa.array([b"one", None, b"two"], pa.binary_view()),
    ],
    ids=["dictionary", "string_view", "binary_view"],
)
def test_parquet_text_of_any_kind_and_a_part_that_is_all_null(tmp_path, column, suffix):
    (tmp_path / "in").mkdir()
    write_parquet(tmp_path / "in" / f"a.{suffix}", column)
    write_parquet(tmp_path / "in" / f"b.{suffix}", pa.array([None, None]))
    run(tmp_path / "in", tmp_path / "out", **NOTHING_HELD_OUT)
    assert texts_of(tmp_path / "out") == [b"one", b"two"]


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("a.txt.gz", b"\x1f\x8b", "'a.txt.gz' is compressed"),
        ("a.json", b'[{"text": "one"}]', "'a.json' is one JSON value, not one a line"),
        ("a.bin", b"MZ\x00\x03", "'a.bin' is no text: byte 2 is zero"),
    ],
)
def test_what_is_no_text_is_refused_by_name(tmp_path, name, content, said):
    write(tmp_path / "in", {name: content})
    with pytest.raises(ValueError, match=said):
        run(tmp_path / "in", tmp_path / "out", **NOTHING_HELD_OUT)


def test_the_home_folder_may_be_written_as_a_tilde(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "in", {"a.txt": b"one"})
    run("~/in", Path("~/out"), **NOTHING_HELD_OUT)
    assert texts_of("~/out") == texts_of(tmp_path / "out") == [b"one"]
    assert not Path("~").exists()


json_texts = st.lists(st.text(st.characters(codec="utf-8")), min_size=1, max_size=5)


@given(json_texts, st.sampled_from(["\n", "\r\n"]), st.booleans(), st.booleans())
@settings(max_examples=25)
def test_any_json_lines_are_what_json_reads(texts, end, marked, ascii_only):
    rows = [json.dumps({"text": text}, ensure_ascii=ascii_only) for text in texts]
    content = MARK * marked + end.join(rows).encode()
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "a.jsonl").write_bytes(content)
        (file,) = find_files(Path(folder) / "a.jsonl")
        known = input_file(file)
        found = []
        for part in split_file(0, known, "text", 7):
            found += [document.text for document in read_part(known, part, "text", "text")]
    assert found == [json.loads(row)["text"].encode() for row in rows]


@given(st.lists(st.none() | st.binary(max_size=8), min_size=1, max_size=9), st.integers(1, 4))
@settings(max_examples=25)
def test_any_parquet_column_is_what_pyarrow_reads(values, rows):
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "a.parquet"
        write_parquet(path, pa.array(values, pa.binary()), row_group_size=rows)
        (file,) = find_files(path)
        known = input_file(file)
        found = []
        for part in split_file(0, known, "text", 1):
            found += [document.text for document in read_part(known, part, "text", "text")]
        expected = parquet.read_table(path).column("text").to_pylist()
    assert found == [value or b"" for value in expected]
