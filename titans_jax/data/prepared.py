"""A folder of prepared text: shards of token ids to train on, text that was held out, and a manifest of both.

`manifest.json` says which tokenizer made the ids and what every file must be. The training tokens are read from the
shards (shards.py) when they are asked for. Held-out text stays text, `valid.txt`, so that what a model is scored on can
be counted in bytes and compressed by the yardsticks; `valid.documents.npy`, int64 [documents, 2], divides it: bytes and
CRC-32 of each document.
"""

import dataclasses
import functools
import hashlib
import json
import os
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, overload

import numpy as np
from jaxtyping import Int32, Int64

from titans_jax.data.shards import BLOCK, REMEDY, Shard, ShardInfo, inside, read_table
from titans_jax.data.sources import Document

MANIFEST = "manifest.json"
#: In the folder from the start of a preparation.
PLAN = "plan.json"
VALID_TEXT = "valid.txt"
VALID_TABLE = "valid.documents.npy"
FORMAT = "titans-jax prepared text 1"
# Readers held open at once, each with a file: systems allow a process as few as 256.
_OPEN_SHARDS = 128


@dataclasses.dataclass(frozen=True)
class Manifest:
    """What a prepared folder holds.

    Attributes:
      tokenizer: fingerprint of the tokenizer that made the ids.
      vocab_size: of that tokenizer.
      start_token: of that tokenizer; the first token of every document.
      counts: sums over everything, by name.
      irregular: file name -> what was not as it should be, and how often, by name; only files that had any.
      settings: how it was prepared, by name.
      shards: the training text, in order.
      valid_documents: documents held out.
      valid_bytes: bytes of `VALID_TEXT`.
      valid_sha256: SHA-256 of `VALID_TABLE`.
      format: `FORMAT`.
      block: tokens in a record.
    """

    tokenizer: str
    vocab_size: int
    start_token: int
    counts: dict[str, int]
    irregular: dict[str, dict[str, int]]
    settings: dict[str, Any]
    shards: tuple[ShardInfo, ...]
    valid_documents: int
    valid_bytes: int
    valid_sha256: str
    format: str = FORMAT
    block: int = BLOCK

    def to_json(self) -> str:
        """As the text of `MANIFEST`."""
        values = {
            f.name: getattr(self, f.name) for f in dataclasses.fields(self) if f.name != "shards"
        }
        values["shards"] = [shard._asdict() for shard in self.shards]
        return json.dumps(values, indent=1, sort_keys=True) + "\n"

    def fingerprint(self) -> str:
        """SHA-256 of all that is in the manifest, and so, by the hashes in it, of all prepared text."""
        return hashlib.sha256(self.to_json().encode()).hexdigest()


class PreparedTokens(Sequence[Int32[np.ndarray, " N"]]):
    """The documents of any number of shards, read from disk when asked for.

    As a sequence: the token arrays of the documents, start tokens included. As `packing.Tokens`: the same, end to end.
    Any number of threads may read.
    """

    def __init__(self, shards: Sequence[Shard]):
        self.shards = tuple(shards)
        ends = np.cumsum([shard.info.tokens for shard in self.shards], dtype=np.int64)
        self._firsts = np.concatenate([[0], ends])  # of each shard, in the whole
        self._reader = functools.lru_cache(_OPEN_SHARDS)(lambda n: self.shards[n].open())

    @functools.cached_property
    def starts(self) -> Int64[np.ndarray, " D+1"]:
        """Where each document starts, and where the last one ends."""
        lengths = [shard.lengths for shard in self.shards]
        return np.concatenate([[0], np.cumsum(np.concatenate([np.zeros(0, np.int64), *lengths]))])

    def read(self, start: int, stop: int) -> Int32[np.ndarray, " N"]:
        """Tokens `start` to `stop`, across documents and shards.

        Raises:
          ValueError: a record is damaged; names file and record.
        """
        pieces = []
        number = int(np.searchsorted(self._firsts, start, side="right")) - 1
        while start < stop:
            first, end = int(self._firsts[number]), int(self._firsts[number + 1])
            until = min(stop, end)
            shard = self.shards[number]
            pieces.append(shard.read(self._reader(number), start - first, until - first))
            start, number = until, number + 1
        return np.concatenate(pieces) if pieces else np.zeros(0, np.int32)

    def __len__(self) -> int:
        return sum(shard.info.documents for shard in self.shards)

    @overload
    def __getitem__(self, index: int) -> Int32[np.ndarray, " N"]: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Int32[np.ndarray, " N"]]: ...
    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return [self[number] for number in range(*index.indices(len(self)))]
        number = range(len(self))[index]
        return self.read(int(self.starts[number]), int(self.starts[number + 1]))

    @property
    def target_tokens(self) -> int:
        """Tokens of all documents but their start tokens."""
        return sum(shard.info.tokens - shard.info.documents for shard in self.shards)

    @property
    def target_bytes(self) -> int:
        """Bytes of text that these tokens spell."""
        return sum(shard.info.text_bytes for shard in self.shards)


class Prepared:
    """A prepared folder that was found complete."""

    def __init__(self, folder: Path, manifest: Manifest):
        """Compares every file with the manifest; raises as `open_prepared` does."""
        self.folder, self.manifest = folder, manifest
        self.documents = PreparedTokens(
            [Shard(folder, info, manifest.vocab_size) for info in manifest.shards]
        )
        path = folder / VALID_TEXT
        if not path.is_file():
            raise FileNotFoundError(f"held-out text {path} is missing; {REMEDY}")
        size = path.stat().st_size
        if size != manifest.valid_bytes:
            raise ValueError(
                f"held-out text {path} has {size:,} bytes, the manifest says {manifest.valid_bytes:,}; {REMEDY}"
            )
        self._valid = read_table(folder / VALID_TABLE, manifest.valid_sha256)

    def valid_documents(self, at_least: int | None = None) -> list[Document]:
        """The held-out documents, into memory.

        Args:
          at_least: stop after the document that reaches this many bytes; None reads all.

        Raises:
          ValueError: a document is not what was written; names it.
        """
        documents, read = [], 0
        with (self.folder / VALID_TEXT).open("rb") as file:
            for number, (size, crc32) in enumerate(self._valid.tolist()):
                if at_least is not None and read >= at_least:
                    break
                text = file.read(size)
                if zlib.crc32(text) != crc32:
                    raise ValueError(
                        f"held-out text {file.name}, document {number}: it is not what was written (CRC-32 differs); "
                        f"{REMEDY}"
                    )
                documents.append(Document(f"{self.folder.name}/{VALID_TEXT} {number}", text))
                read += size
        return documents


def is_prepared(folder: str | os.PathLike[str]) -> bool:
    """Whether `folder` is one that text was, or is being, prepared into."""
    return any((Path(folder).expanduser() / name).is_file() for name in (MANIFEST, PLAN))


def open_prepared(folder: str | os.PathLike[str]) -> Prepared:
    """Opens a folder of prepared text.

    Sizes, record counts and document tables of all shards are compared with the manifest; the tokens themselves are
    checked by ArrayRecord's hashes when they are read.

    Args:
      folder: where `experiments.prepare_data` wrote.

    Raises:
      FileNotFoundError: there is no manifest, or a file is missing.
      ValueError: a file is truncated, altered, or of another format; names it.
    """
    folder = Path(folder).expanduser()
    return Prepared(folder, read_manifest(folder))


def read_manifest(folder: Path) -> Manifest:
    """Reads a prepared folder's manifest; raises as `open_prepared` does."""
    path = folder / MANIFEST
    if not path.is_file():
        if is_prepared(folder):
            raise FileNotFoundError(
                f"{path} is missing: the preparation is not finished; give its command again, and it will continue"
            )
        raise FileNotFoundError(
            f"{path} does not exist; give a folder that experiments.prepare_data wrote"
        )
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        found = values["format"], values["block"]
        if found != (FORMAT, BLOCK):
            raise ValueError(f"format and block are {found}, this version reads {(FORMAT, BLOCK)}")
        shards = tuple(ShardInfo(**shard) for shard in values.pop("shards"))
        for shard in shards:
            inside(shard.name)
        return Manifest(**values, shards=shards)
    except (ValueError, TypeError, KeyError) as error:
        raise ValueError(f"manifest {path} cannot be read ({error!r}); {REMEDY}") from error
