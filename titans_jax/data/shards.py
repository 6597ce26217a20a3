"""One shard of token ids: an ArrayRecord file of equal blocks, and a table of the documents in it.

The tokens of a shard's documents lie end to end, each document's start token first, and are cut every `BLOCK` tokens:
record n of `NAME.array_record` holds tokens n * BLOCK to (n + 1) * BLOCK, little-endian, in the narrowest unsigned
integers that fit the vocabulary; only the last record may be shorter. So a window of any length is a few records,
wherever it starts. `NAME.documents.npy`, int64 [documents, 2], holds each document's tokens and bytes of text.

ArrayRecord hashes every record and refuses one that was altered. What a whole file must be stands in its `ShardInfo`.
"""

import hashlib
import io
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import numpy as np
from array_record.python.array_record_module import ArrayRecordReader, ArrayRecordWriter
from jaxtyping import Int32, Int64

#: Tokens in a record.
BLOCK = 2048
REMEDY = "restore it from a copy, or prepare the data again"
_READER_OPTIONS = "readahead_buffer_size:0,max_parallelism:0"  # for reads at random places


class ShardInfo(NamedTuple):
    """What a shard holds, and what its files must be."""

    name: str
    documents: int
    tokens: int  # start tokens included
    text_bytes: int
    size: int  # bytes of the ArrayRecord file
    sha256: str
    table_sha256: str


def inside(name: str) -> str:
    """A relative path that stays below the folder that it is put into, as it is.

    Args:
      name: parts divided by "/", from a manifest or a storage.

    Raises:
      ValueError: it is empty, absolute, or leads out of the folder.
    """
    parts = name.split("/")
    if not all(parts) or {".", ".."} & set(parts) or "\\" in name or ":" in parts[0]:
        raise ValueError(f"file name {name!r} leads out of its folder, or is none")
    return name


def token_dtype(vocab_size: int) -> np.dtype:
    """The type in which ids below `vocab_size` are stored."""
    return np.dtype("u1" if vocab_size <= 1 << 8 else "<u2" if vocab_size <= 1 << 16 else "<u4")


class ShardWriter:
    """Writes one shard, a document at a time."""

    def __init__(self, folder: Path, name: str, vocab_size: int, start_token: int):
        """Creates the files `name`.* in `folder`, or overwrites them; OSError if that is not possible."""
        self._name = name
        self._path, self._table_path = shard_files(folder, name)
        self._writer = ArrayRecordWriter(str(self._path), "group_size:1")
        if not self._writer.ok():
            raise OSError(f"{self._path} cannot be written; is its folder there, and writable?")
        self._vocab_size = vocab_size
        self._dtype = token_dtype(vocab_size)
        self._start = np.array([start_token], np.int32)
        self._waiting: list[np.ndarray] = []  # less than a block
        self._tokens = 0
        self._records = 0
        self._table: list[tuple[int, int]] = []

    def add(self, pieces: Iterable[tuple[Int32[np.ndarray, " N"], int]]) -> bool:
        """Appends a document.

        Args:
          pieces: its token ids, without a start token, and the bytes of text that they spell; in as many pieces as
            is convenient.

        Returns:
          Whether it has any token; without one nothing is written.

        Raises:
          ValueError: an id is outside the vocabulary.
        """
        first, text_bytes = self._tokens, 0
        for ids, size in pieces:
            text_bytes += size
            if not len(ids):
                continue
            if ids.min() < 0 or ids.max() >= self._vocab_size:
                raise ValueError(
                    f"the tokenizer gave ids from {ids.min()} to {ids.max()}; they must lie in "
                    f"[0, {self._vocab_size}), its vocabulary"
                )
            if self._tokens == first:
                self._append(self._start)
            self._append(ids)
        if self._tokens == first:
            return False
        self._table.append((self._tokens - first, text_bytes))
        return True

    def close(self) -> ShardInfo | None:
        """Finishes the files; None if there is no document, and then no file either.

        Raises:
          OSError: what was written is not there.
        """
        self._flush(1)
        self._writer.close()
        if not self._table:
            self._path.unlink()
            return None
        written = ArrayRecordReader(str(self._path)).num_records()
        if written != self._records:
            raise OSError(
                f"{self._path}: {self._records} records were written, {written} are there"
            )
        table = np.array(self._table, np.int64)
        np.save(self._table_path, table)
        with self._path.open("rb") as file:
            sha256 = hashlib.file_digest(file, "sha256").hexdigest()
        return ShardInfo(
            name=self._name,
            documents=len(table),
            tokens=self._tokens,
            text_bytes=int(table[:, 1].sum()),
            size=self._path.stat().st_size,
            sha256=sha256,
            table_sha256=hashlib.sha256(self._table_path.read_bytes()).hexdigest(),
        )

    def _append(self, ids: np.ndarray) -> None:
        self._waiting.append(ids.astype(self._dtype))
        self._tokens += len(ids)
        if self._tokens - self._records * BLOCK >= BLOCK:
            self._flush(BLOCK)

    def _flush(self, least: int) -> None:
        """Writes blocks until less than `least` tokens wait."""
        waiting = np.concatenate([*self._waiting, np.zeros(0, self._dtype)])
        while len(waiting) >= least:
            self._writer.write(waiting[:BLOCK].tobytes())
            self._records += 1
            waiting = waiting[BLOCK:]
        self._waiting = [waiting]


class Shard:
    """A shard that was found complete; its tokens stay on disk.

    lengths: tokens of each document.
    """

    lengths: Int64[np.ndarray, " D"]

    def __init__(self, folder: Path, info: ShardInfo, vocab_size: int):
        """Compares the files with `info`.

        Raises:
          FileNotFoundError: a file is missing.
          ValueError: a file is not what was written; names it.
        """
        self.info = info
        self._path, table_path = shard_files(folder, info.name)
        self._dtype = token_dtype(vocab_size)
        if not self._path.is_file():
            raise FileNotFoundError(f"shard file {self._path} is missing; {REMEDY}")
        size = self._path.stat().st_size
        if size != info.size:
            kind = "truncated" if size < info.size else "altered"
            raise ValueError(
                f"shard file {self._path} is {kind}: it has {size:,} bytes, the manifest says {info.size:,}; {REMEDY}"
            )
        self.lengths = read_table(table_path, info.table_sha256)[:, 0].copy()
        found = len(self.lengths), int(self.lengths.sum())
        if found != (info.documents, info.tokens):
            raise ValueError(
                f"table of documents {table_path} counts {found[0]} documents and {found[1]} tokens, the manifest "
                f"{info.documents} and {info.tokens}; {REMEDY}"
            )
        self.open()

    def open(self) -> ArrayRecordReader:
        """Opens the records for `read`.

        Raises:
          ValueError: the file is damaged; names it.
        """
        try:
            reader = ArrayRecordReader(
                str(self._path), _READER_OPTIONS, file_reader_buffer_size=1 << 15
            )
            found = reader.num_records()
        except Exception as error:  # its C++ raises various types
            raise ValueError(
                f"shard file {self._path} cannot be opened ({error}); {REMEDY}"
            ) from error
        expected = -(-self.info.tokens // BLOCK)
        if found != expected:
            raise ValueError(
                f"shard file {self._path} has {found} records, the manifest says {expected}; {REMEDY}"
            )
        return reader

    def read(self, reader: ArrayRecordReader, start: int, stop: int) -> Int32[np.ndarray, " N"]:
        """Tokens `start` to `stop` of the shard, which must lie within it and not be none.

        Args:
          reader: from `open`; any number of threads may use it.
          start: the first token.
          stop: one past the last.

        Raises:
          ValueError: a record is damaged; names file and record.
        """
        first, last = start // BLOCK, (stop - 1) // BLOCK
        blocks = [self._record(reader, number) for number in range(first, last + 1)]
        tokens = np.concatenate(blocks).astype(np.int32)
        return tokens[start - first * BLOCK : stop - first * BLOCK]

    def _record(self, reader: ArrayRecordReader, number: int) -> np.ndarray:
        try:
            (record,) = reader.read([number])
        except Exception as error:  # its C++ raises various types
            raise ValueError(
                f"shard file {self._path}, record {number}: {error}; {REMEDY}"
            ) from error
        return np.frombuffer(record, self._dtype)


def read_table(path: Path, sha256: str) -> Int64[np.ndarray, "D 2"]:
    """Reads a table of documents.

    Args:
      path: of the `.npy` file.
      sha256: what the file must hash to.

    Raises:
      FileNotFoundError: there is none.
      ValueError: it is another file.
    """
    if not path.is_file():
        raise FileNotFoundError(f"table of documents {path} is missing; {REMEDY}")
    content = path.read_bytes()
    if hashlib.sha256(content).hexdigest() != sha256:
        raise ValueError(
            f"table of documents {path} is not what was written (SHA-256 differs); {REMEDY}"
        )
    return np.load(io.BytesIO(content), allow_pickle=False)


def shard_files(folder: Path, name: str) -> tuple[Path, Path]:
    """The paths of a shard's records and of its table."""
    return folder / f"{name}.array_record", folder / f"{name}.documents.npy"
