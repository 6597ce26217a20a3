"""DNA from files: FASTA, tables of sequences with labels, and the folders of GenomicBenchmarks.

Letters are not looked at here; `NucleotideTokenizer` refuses those that are no nucleotides. FASTA is read in sequence,
so that its lines may be of any length; tables are read by pandas (extra `genomics`).
"""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Int

from titans_jax.data.characters import BYTE_ORDER_MARK

GZIP_MAGIC = b"\x1f\x8b"
PARTS = ("train", "test")
SEQUENCE_COLUMN, LABEL_COLUMN = "seq", "label"
_INSTALL = "pip install 'titans-jax[genomics]'"


class LabelledSequences(NamedTuple):
    """Sequences with a class each.

    Attributes:
        sequences: their letters.
        labels: number of the class of each.
        classes: names of the classes, sorted.
        sources: where each came from, for error messages.
    """

    sequences: list[bytes]
    labels: Int[np.ndarray, "N"]
    classes: tuple[str, ...]
    sources: list[str]


def read_fasta(path: str | Path) -> Iterator[tuple[str, bytes]]:
    """Name and letters of every record, in the file's order; white space among the letters is left out.

    Args:
        path: the file; gzip, BGZF too, is undone whatever the file's name.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is no FASTA or its gzip is damaged, has a name twice, or a record without letters; names file
            and line.
    """
    path = Path(path).expanduser()
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such FASTA file")
    with open(path, "rb") as opened:
        compressed = opened.read(2) == GZIP_MAGIC
    names: set[str] = set()
    name: str | None = None
    pieces: list[bytes] = []

    def record(name: str) -> tuple[str, bytes]:
        letters = b"".join(pieces)
        if not letters:
            raise ValueError(f"{path}: record {name!r} has no letters")
        return name, letters

    try:
        with gzip.open(path) if compressed else open(path, "rb") as lines:
            for number, line in enumerate(lines, 1):
                if number == 1:
                    line = line.removeprefix(BYTE_ORDER_MARK)
                if line.startswith(b">"):
                    if name is not None:
                        yield record(name)
                    name, pieces = _record_name(line, path, number), []
                    if name in names:
                        raise ValueError(
                            f"{path}, line {number}: there is a record {name!r} already"
                        )
                    names.add(name)
                elif letters := b"".join(line.split()):
                    if name is None:
                        raise ValueError(
                            f"{path} is no FASTA: line {number} comes before the first record, a line that begins "
                            "with '>'"
                        )
                    if not letters.isascii():
                        raise ValueError(f"{path}, line {number}: letters must be ASCII")
                    pieces.append(letters)
    except (EOFError, OSError, zlib.error) as error:
        raise ValueError(f"{path}: its gzip is damaged or cut off ({error})") from error
    if name is None:
        raise ValueError(f"{path} is no FASTA: there is no record, a line that begins with '>'")
    yield record(name)


def _record_name(line: bytes, path: Path, number: int) -> str:
    """The first word of a record's first line."""
    try:
        words = line[1:].decode().split()
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is no FASTA: line {number} is not UTF-8") from error
    if not words:
        raise ValueError(f"{path}, line {number}: the record has no name")
    return words[0]


def read_table(path: str | Path) -> LabelledSequences:
    """Sequences of a CSV with a header and the columns "seq" and "label"; others are ignored.

    Args:
        path: the file; pandas undoes its compression by its name (.csv.gz).

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if a column is missing, a row lacks a value (rows are counted from 1, the header not counted), or
            there are no rows or only one class.
        ImportError: if pandas is not installed.
    """
    sequences, names = _table_columns(Path(path))
    sources = [f"{path}, row {row}" for row in range(1, len(sequences) + 1)]
    return _labelled(sequences, names, sources, str(path))


def read_benchmark(folder: str | Path) -> dict[str, LabelledSequences]:
    """The parts "train" and "test" of a GenomicBenchmarks data set.

    Args:
        folder: with `train/CLASS/*` and `test/CLASS/*`, one sequence a file, as the package `genomic-benchmarks` leaves
            them; or with `train.csv` and `test.csv` (columns "seq" and "label").

    Raises:
        FileNotFoundError: if the folder or a part is not there.
        ValueError: if a part cannot be read, holds coordinates for sequences, or the parts' classes differ.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder}: no such folder")
    parts = {part: _read_part(folder, part) for part in PARTS}
    first, second = (parts[part].classes for part in PARTS)
    if first != second:
        raise ValueError(
            f"{folder}: train has the classes {list(first)}, test has {list(second)}; they must be the same"
        )
    return parts


def _read_part(folder: Path, part: str) -> LabelledSequences:
    table, classes = folder / f"{part}.csv", folder / part
    if table.is_file():
        return read_table(table)
    if not classes.is_dir():
        raise FileNotFoundError(f"{folder}: neither {part}/CLASS/* nor {part}.csv is there")
    if any(classes.glob("*.csv*")):
        raise ValueError(
            f"{classes} holds tables of coordinates; sequences are wanted: download the data set with the package "
            "genomic-benchmarks (loc2seq.download_dataset), which looks them up in the genome"
        )
    files = [
        file
        for name in sorted(path for path in classes.iterdir() if path.is_dir())
        for file in sorted(path for path in name.iterdir() if path.is_file())
    ]
    sequences = ["".join(file.read_text(encoding="utf-8").split()) for file in files]
    names = [file.parent.name for file in files]
    return _labelled(sequences, names, [str(file) for file in files], str(classes))


def _table_columns(path: Path) -> tuple[list[str], list[str]]:
    """The sequences and the names of their classes."""
    try:
        import pandas as pd
    except ImportError as error:
        raise ImportError(f"reading {path} needs pandas: {_INSTALL}") from error
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such CSV file")
    try:
        # "NA" is a sequence of two letters, not a missing value.
        table = pd.read_csv(path, dtype=str, keep_default_na=False)
    except (ValueError, pd.errors.ParserError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is no CSV that can be read: {error}") from error
    for column in (SEQUENCE_COLUMN, LABEL_COLUMN):
        if column not in table:
            raise ValueError(
                f"{path}: there is no column {column!r}; the columns are {[*map(str, table.columns)]}"
            )
    sequences, labels = (
        [str(value).strip() for value in table[column]]
        for column in (SEQUENCE_COLUMN, LABEL_COLUMN)
    )
    for row, label in enumerate(labels, 1):
        if not label:
            raise ValueError(f"{path}, row {row}: there is no label")
    return sequences, labels


def _labelled(
    sequences: list[str], names: list[str], sources: list[str], where: str
) -> LabelledSequences:
    for sequence, source in zip(sequences, sources, strict=True):
        if not sequence:
            raise ValueError(f"{source}: there is no sequence")
    classes = tuple(sorted(set(names)))
    if len(classes) < 2:
        raise ValueError(
            f"{where}: at least two classes are needed, there are {len(classes)}: {list(classes)}"
        )
    number = {name: index for index, name in enumerate(classes)}
    labels = np.array([number[name] for name in names], np.int32)
    return LabelledSequences([s.encode() for s in sequences], labels, classes, sources)
