"""One unit of a preparation: documents of some parts of the input, to a shard of tokens and to held-out text.

The files appear in the folder `unfinished` and are moved into their place when they are complete; the report, which
says that the unit is done, comes last. A process may be killed at any moment.
"""

import dataclasses
import json
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from mmap import mmap
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Int32

from experiments.prepare.held_out import Rule, document_key, tail_start
from experiments.prepare.inputs import InputFile, RawDocument, describe, read_part
from experiments.prepare.plan import Plan, write_whole
from titans_jax.data.characters import character_start
from titans_jax.data.shards import Shard, ShardInfo, ShardWriter, shard_files
from titans_jax.data.tokenizers import Tokenizer

UNFINISHED = "unfinished"
EMPTY, INVALID_UTF8 = "empty documents", "documents with invalid UTF-8"
#: Longer documents are encoded in pieces of at most so many bytes, cut after a line or a word.
PIECE = 1 << 20


class HeldOut(NamedTuple):
    """Held-out text of a unit: documents, and the bytes of the two files."""

    documents: int
    size: int
    table_size: int


@dataclasses.dataclass(frozen=True)
class UnitReport:
    """What became of a unit.

    Attributes:
      rule: by which text was held out.
      shard: None if every document was empty or held out.
      valid: what was held out.
      irregular: file name -> what was not as it should be -> documents.
    """

    rule: Rule
    shard: ShardInfo | None
    valid: HeldOut
    irregular: dict[str, dict[str, int]]


def make_unit(
    plan: Plan,
    number: int,
    tokenizer: Tokenizer,
    folder: Path,
    rule: Rule,
    progress: Callable[[int], object],
) -> UnitReport:
    """Makes shard `number` of a plan, and its report.

    Args:
      plan: the plan.
      number: of the unit.
      tokenizer: the plan's.
      folder: the output folder.
      rule: what to hold out.
      progress: is told the weight of what has been read, bit by bit; their sum is that of the unit's parts or less.

    Raises:
      ValueError: a document cannot be read or encoded; names file and line or row.
      OSError: a file cannot be read or written.
    """
    unfinished = folder / UNFINISHED
    unfinished.mkdir(exist_ok=True)
    report_path(folder, number).unlink(missing_ok=True)
    name = f"tokens-{number:05d}"
    shard = ShardWriter(unfinished, name, tokenizer.vocab_size, tokenizer.start_token)
    irregular: dict[str, Counter[str]] = {}
    table: list[tuple[int, int]] = []
    text_path, table_path = held_out_files(folder, number)
    with text_path.open("wb") as held_out:
        for part in plan.units[number]:
            file = plan.files[part.file]
            for raw in read_part(file, part, plan.settings.field, plan.settings.column):
                text = _Text(file, raw, plan.settings.invalid_utf8 == "fail", progress)
                end = len(raw.text)
                whole = document_key(raw.text) < rule.below
                divide = raw.start if whole else max(raw.start, tail_start(raw.text, rule.tail))
                empty = not shard.add(_encoded(text, divide, tokenizer))
                if divide < end:
                    empty, crc32, size = False, 0, 0
                    for piece in text.pieces(divide, end):
                        held_out.write(piece)
                        crc32, size = zlib.crc32(piece, crc32), size + len(piece)
                    table.append((size, crc32))
                for what, happened in ((EMPTY, empty), (INVALID_UTF8, text.invalid)):
                    if happened:
                        irregular.setdefault(file.name, Counter())[what] += 1
    np.save(table_path, np.array(table, np.int64).reshape(-1, 2))
    info = shard.close()
    for made, place in zip(shard_files(unfinished, name), shard_files(folder, name), strict=True):
        if info is None:
            place.unlink(missing_ok=True)
        else:
            made.replace(place)
    valid = HeldOut(len(table), text_path.stat().st_size, table_path.stat().st_size)
    report = UnitReport(
        rule, info, valid, {file: dict(counts) for file, counts in irregular.items()}
    )
    write_whole(report_path(folder, number), json.dumps(dataclasses.asdict(report)) + "\n")
    return report


def read_report(folder: Path, number: int, vocab_size: int) -> UnitReport | None:
    """The report of a unit that is finished and whose files are there as a whole; None if it must be made (again)."""
    try:
        values = json.loads(report_path(folder, number).read_text(encoding="utf-8"))
        info = None if values["shard"] is None else ShardInfo(*values["shard"])
        parts = {"rule": Rule(*values["rule"]), "valid": HeldOut(*values["valid"]), "shard": info}
        report = UnitReport(**{**values, **parts})
        if info is not None:
            Shard(folder, info, vocab_size)
        sizes = [path.stat().st_size for path in held_out_files(folder, number)]
    except (FileNotFoundError, ValueError, TypeError, KeyError):
        return None
    return report if sizes == list(report.valid[1:]) else None


def report_path(folder: Path, number: int) -> Path:
    """Where the report of a unit lies until all are finished."""
    return folder / UNFINISHED / f"report-{number:05d}.json"


def held_out_files(folder: Path, number: int) -> tuple[Path, Path]:
    """Where the held-out text of a unit, and the table of its documents, lie until all are finished."""
    base = folder / UNFINISHED
    return base / f"valid-{number:05d}.txt", base / f"valid-{number:05d}.documents.npy"


class _Text:
    """A document's text as UTF-8, piece by piece."""

    def __init__(
        self, file: InputFile, raw: RawDocument, fail: bool, progress: Callable[[int], object]
    ):
        self.place, self.start = (file, raw.place), raw.start
        self.invalid = False
        self._text, self._weight = raw.text, raw.weight
        self._fail, self._progress = fail, progress

    def pieces(self, start: int, stop: int) -> Iterator[bytes]:
        """Bytes `start` to `stop`; what is no UTF-8 is replaced by U+FFFD, and `invalid` is then True."""
        for place, piece in cut(self._text, start, stop, PIECE):
            try:
                piece.decode()
            except UnicodeDecodeError as error:
                if self._fail:
                    raise ValueError(
                        f"{describe(*self.place)}: byte {place + error.start} of the text is no UTF-8 "
                        f"({error.reason}); mend the file, or replace such bytes by --invalid_utf8=replace"
                    ) from error
                self.invalid = True
                yield piece.decode(errors="replace").encode()
            else:
                yield piece
            self._progress(self._weight * len(piece) // len(self._text))


def _encoded(
    text: _Text, stop: int, tokenizer: Tokenizer
) -> Iterator[tuple[Int32[np.ndarray, " N"], int]]:
    for piece in text.pieces(text.start, stop):
        try:
            yield tokenizer.encode(piece), len(piece)
        except ValueError as error:
            raise ValueError(f"{describe(*text.place)}: {error}") from error


def cut(text: bytes | mmap, start: int, stop: int, most: int) -> Iterator[tuple[int, bytes]]:
    """Cuts text[start:stop] into pieces of at most `most` bytes, at least 8, each with where it starts.

    A piece ends after a line break if there is one in its second half, else after a space, else between characters.
    """
    while start < stop:
        end = min(start + most, stop)
        if end < stop:
            half = start + most // 2
            after = text.rfind(b"\n", half, end)
            if after < 0:
                after = text.rfind(b" ", half, end)
            if after >= 0:
                end = after + 1
            else:
                end = character_start(text, end)
        yield start, text[start:end]
        start = end
