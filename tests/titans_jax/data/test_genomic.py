"""DNA from files: what is there comes back, and what is wrong is named by file and row."""

import gzip
import io
import tempfile
from pathlib import Path

import numpy as np
import pytest
from Bio import SeqIO
from hypothesis import given
from hypothesis import strategies as st

from titans_jax.data.genomic import read_benchmark, read_fasta, read_table


def test_fasta_records_in_order_over_several_lines(tmp_path):
    path = tmp_path / "g.fa"
    path.write_text(">chr2 a comment\nACGT\nacgN\nAC\n>chr1\nTTTT\n")
    assert list(read_fasta(path)) == [("chr2", b"ACGTacgNAC"), ("chr1", b"TTTT")]
    assert [file.name for file in tmp_path.iterdir()] == ["g.fa"]  # no index beside it


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"ACGT\n", "g.fa is no FASTA"),
        (b"", "g.fa is no FASTA"),
        (b">a\nAC\n>a\nGT\n", "g.fa, line 3: there is a record 'a' already"),
        (b">a\nAC\n>b\n", "g.fa: record 'b' has no letters"),
        (b">\nAC\n", "g.fa, line 1: the record has no name"),
        (b">a\nA\xffC\n", "g.fa, line 2: letters must be ASCII"),
        (b"\x1f\x8b\x08\x00\xff\xfe\n", "g.fa: its gzip is damaged or cut off"),
    ],
)
def test_bad_fasta(tmp_path, content, said):
    (tmp_path / "g.fa").write_bytes(content)
    with pytest.raises(ValueError, match=said):
        list(read_fasta(tmp_path / "g.fa"))


CONTENTS = [
    b">one\nACG\nTACG\nT\n>two\nGG\nTT\n",
    b">one\nACGT\n\nACGT\n>two\nGGTT\n\n\n",
    b"\xef\xbb\xbf>one about\r\nACGT \r\nAC GT\r\n>two\r\nGGTT",
]


@pytest.mark.parametrize("content", CONTENTS, ids=["uneven", "blank lines", "mark and spaces"])
@pytest.mark.parametrize("compressed", [False, True])
def test_lines_of_any_length_and_plain_gzip(tmp_path, content, compressed):
    path = tmp_path / "g.fa.gz"
    path.write_bytes(gzip.compress(content) if compressed else content)
    assert list(read_fasta(path)) == [("one", b"ACGTACGT"), ("two", b"GGTT")]


@given(
    st.lists(st.text("ACGTNacgt", min_size=1, max_size=40), min_size=1, max_size=4),
    st.integers(1, 11),
    st.sampled_from(["\n", "\r\n", "\n\n"]),
)
def test_any_fasta_is_what_biopython_reads(sequences, width, end):
    text = "".join(
        f">r{n} of many{end}" + "".join(s[i : i + width] + end for i in range(0, len(s), width))
        for n, s in enumerate(sequences)
    )
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "g.fa"
        path.write_bytes(text.encode())
        expected = [(r.id, str(r.seq).encode()) for r in SeqIO.parse(io.StringIO(text), "fasta")]
        assert list(read_fasta(path)) == expected


def test_missing_files(tmp_path):
    for read in (lambda path: list(read_fasta(path)), read_table, read_benchmark):
        with pytest.raises(FileNotFoundError, match="nothing"):
            read(tmp_path / "nothing")


def test_table_with_other_columns_and_named_classes(tmp_path):
    path = tmp_path / "t.csv"
    path.write_text("id,label,seq\n1,yes,ACGT\n2,no,NA\n3,yes, GG \n")
    table = read_table(path)
    assert table.sequences == [b"ACGT", b"NA", b"GG"]  # NA is a sequence, no missing value
    assert table.classes == ("no", "yes")
    np.testing.assert_array_equal(table.labels, [1, 0, 1])
    assert table.sources[2].endswith("t.csv, row 3")


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("seq,class\nA,1\n", "no column 'label'; the columns are"),
        ("seq,label\nA,1\n,0\n", "row 2: there is no sequence"),
        ("seq,label\nA,1\nC,\n", "row 2: there is no label"),
        ("seq,label\nA,1\nC,1\n", "at least two classes are needed, there are 1"),
        ("seq,label\n", "at least two classes are needed, there are 0"),
        ("", "no CSV that can be read"),
    ],
)
def test_bad_tables(tmp_path, content, said):
    path = tmp_path / "t.csv"
    path.write_text(content)
    with pytest.raises(ValueError, match=said):
        read_table(path)


def write_folder(folder, parts):
    for part, classes in parts.items():
        for name, sequences in classes.items():
            (folder / part / name).mkdir(parents=True)
            for number, sequence in enumerate(sequences):
                (folder / part / name / f"{number}.txt").write_text(sequence)


def test_folders_of_genomic_benchmarks(tmp_path):
    write_folder(
        tmp_path,
        {"train": {"positive": ["AC", "GT\n"], "negative": ["TT"]}, "test": {"positive": ["A"], "negative": ["C"]}},
    )  # fmt: skip
    parts = read_benchmark(tmp_path)
    assert parts["train"].sequences == [b"TT", b"AC", b"GT"]
    np.testing.assert_array_equal(parts["train"].labels, [0, 1, 1])
    assert parts["test"].classes == ("negative", "positive")
    (tmp_path / "test.csv").write_text("seq,label\nGG,positive\nCC,negative\n")
    assert read_benchmark(tmp_path)["test"].sequences == [b"GG", b"CC"]
    (tmp_path / "test.csv").write_text("seq,label\nGG,1\nCC,0\n")
    with pytest.raises(ValueError, match=r"train has the classes .'negative', 'positive'., test"):
        read_benchmark(tmp_path)


def test_coordinates_are_no_sequences(tmp_path):
    (tmp_path / "train").mkdir()
    (tmp_path / "train" / "positive.csv.gz").write_bytes(b"")
    with pytest.raises(ValueError, match="holds tables of coordinates"):
        read_benchmark(tmp_path)
