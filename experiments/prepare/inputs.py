"""Documents of text files, JSON Lines and Parquet files, as raw bytes, in parts that can be read on their own.

* A text file is one document. It is mapped into memory, not read, and so may be larger than RAM.
* `.jsonl`, `.ndjson`: each line is an object and one of its fields a document. A part is a range of bytes, and a line
  belongs to the part that it begins in.
* `.parquet`, `.pq`, `.parq`: each row of one column is a document. A part is a range of row groups.

Whether the bytes are UTF-8 is for the caller to see; a field or column that is not there ends here, by file and line.
"""

import json
import mmap
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from titans_jax.data.characters import BYTE_ORDER_MARK
from titans_jax.data.sources import SourceFile, file_kind, require_text

JSON_LINES, PARQUET = "JSON Lines", "Parquet"


class InputFile(NamedTuple):
    """A file as it was when the preparation began."""

    name: str
    path: str
    size: int
    mtime_ns: int


class Part(NamedTuple):
    """A piece of a file: bytes, or row groups of Parquet, `start` to `stop`."""

    file: int  # number in the list of files
    start: int
    stop: int
    weight: int  # about its bytes of text


class RawDocument(NamedTuple):
    """One document: its bytes, where its file has it, its share of the part's weight, and where its text starts."""

    text: bytes | mmap.mmap
    place: int  # byte where its line starts, or row; 0 for a text file
    weight: int
    start: int = 0  # after a byte order mark


def input_file(file: SourceFile) -> InputFile:
    """Looks at a file.

    Raises:
      ValueError: it is of a kind that cannot be read.
    """
    kind = file_kind(file.path)
    if kind == "compressed":
        raise ValueError(
            f"input file {file.name!r} is compressed; decompress it, or leave it out of --input"
        )
    if kind == "JSON":
        raise ValueError(
            f"input file {file.name!r} is one JSON value, not one a line; make it JSON Lines (.jsonl), or leave it out "
            "of --input"
        )
    stat = file.path.stat()
    return InputFile(file.name, str(file.path), stat.st_size, stat.st_mtime_ns)


def split_file(number: int, file: InputFile, column: str, part_bytes: int) -> list[Part]:
    """Divides a file into parts of about `part_bytes`, as far as its kind allows.

    Args:
      number: of the file in the list.
      file: the file.
      column: of Parquet.
      part_bytes: wanted bytes of text in a part.

    Raises:
      ValueError: a Parquet file is damaged or lacks the column.
      ImportError: pyarrow is not installed and needed.
    """
    kind = file_kind(file.path)
    if kind == JSON_LINES:
        starts = range(0, max(file.size, 1), part_bytes)
        stops = [min(start + part_bytes, file.size) for start in starts]
        return [Part(number, a, b, b - a) for a, b in zip(starts, stops, strict=True)]
    if kind != PARQUET:
        return [Part(number, 0, file.size, file.size)]
    metadata = _open_parquet(file, column).metadata
    position = metadata.schema.to_arrow_schema().names.index(column)
    parts: list[Part] = []
    for group in range(metadata.num_row_groups):
        # Columns before a nested one have one leaf each only as a rule; the weight need not be exact.
        leaf = min(position, metadata.num_columns - 1)
        weight = metadata.row_group(group).column(leaf).total_uncompressed_size
        if parts and parts[-1].weight + weight <= part_bytes:
            last = parts.pop()
            parts.append(Part(number, last.start, group + 1, last.weight + weight))
        else:
            parts.append(Part(number, group, group + 1, weight))
    return parts


def read_part(file: InputFile, part: Part, field: str, column: str) -> Iterator[RawDocument]:
    """The documents of a part, in order; a null is an empty document.

    Args:
      file: the file.
      part: of that file.
      field: of JSON Lines.
      column: of Parquet.

    Raises:
      ValueError: the file was changed since `input_file`, or what should be a document is none; names file and line or
        row.
    """
    stat = Path(file.path).stat()
    if (stat.st_size, stat.st_mtime_ns) != (file.size, file.mtime_ns):
        raise ValueError(
            f"input file {file.name!r} was changed since the preparation began; give another --output"
        )
    kind = file_kind(file.path)
    if kind == JSON_LINES:
        yield from _read_lines(file, part, field)
    elif kind == PARQUET:
        yield from _read_rows(file, part, column)
    elif not file.size:
        yield RawDocument(b"", 0, 0)  # nothing cannot be mapped
    else:
        with (
            open(file.path, "rb") as opened,
            mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ) as text,
        ):
            require_text(text, f"input file {file.name!r}")
            mark = len(BYTE_ORDER_MARK)
            start = mark if text[:mark] == BYTE_ORDER_MARK else 0
            yield RawDocument(text, 0, part.weight, start)


def describe(file: InputFile, place: int) -> str:
    """Names a document for people."""
    kind = file_kind(file.path)
    if kind == JSON_LINES:
        return f"input file {file.name!r}, line {_line_number(file.path, place)}"
    if kind == PARQUET:
        return f"input file {file.name!r}, row {place} (the first is 0)"
    return f"input file {file.name!r}"


def _read_lines(file: InputFile, part: Part, field: str) -> Iterator[RawDocument]:
    with open(file.path, "rb") as lines:
        if part.start:
            lines.seek(part.start - 1)
            lines.readline()  # the end of a line that begins in the part before
        while (place := lines.tell()) < part.stop:
            line = lines.readline()
            if not line:
                raise ValueError(
                    f"{describe(file, place)}: the file ends here, though it was longer"
                )
            if not place:
                line = line.removeprefix(BYTE_ORDER_MARK)
            if not line.strip():
                continue
            try:
                value = _field(line, field)
            except ValueError as error:
                raise ValueError(f"{describe(file, place)}: {error}") from error
            yield RawDocument(value, place, len(line))


def _field(line: bytes, field: str) -> bytes:
    try:
        # Bytes that are no UTF-8 go through as they are.
        values = json.loads(line.decode(errors="surrogateescape"))
    except json.JSONDecodeError as error:
        raise ValueError(f"no JSON ({error}); is the file truncated?") from error
    if not isinstance(values, dict):
        raise ValueError(f"an object was expected, found {type(values).__name__}")
    if field not in values:
        raise ValueError(
            f"there is no field --field={field!r}; it has {', '.join(map(repr, values)) or 'none'}"
        )
    text = values[field]
    if text is None:
        return b""
    if not isinstance(text, str):
        raise ValueError(f"field {field!r} is of type {type(text).__name__}; it must be text")
    try:
        return text.encode(errors="surrogateescape")
    except UnicodeEncodeError:
        return text.encode(
            errors="surrogatepass"
        )  # half a pair, written as \\ud800: no UTF-8 either


def _line_number(path: str, offset: int) -> int:
    with open(path, "rb") as file:
        number = 1
        while offset and (block := file.read(min(offset, 1 << 20))):
            number += block.count(b"\n")
            offset -= len(block)
    return number


def _read_rows(file: InputFile, part: Part, column: str) -> Iterator[RawDocument]:
    import pyarrow as pa

    parquet = _open_parquet(file, column)
    groups = [parquet.metadata.row_group(group).num_rows for group in range(part.stop)]
    place = sum(groups[: part.start])
    weight = part.weight // max(1, sum(groups[part.start :]))
    batches = parquet.iter_batches(
        batch_size=1024, row_groups=list(range(part.start, part.stop)), columns=[column]
    )
    try:
        for batch in batches:
            texts = batch.column(0)
            if pa.types.is_dictionary(texts.type):
                texts = texts.dictionary_decode()
            # As bytes: Arrow takes it on trust that a string is UTF-8.
            for text in texts.cast(pa.large_binary()).to_pylist():
                yield RawDocument(text or b"", place, weight)
                place += 1
    except (pa.ArrowException, OSError) as error:
        raise ValueError(
            f"input file {file.name!r}, row {place} or one soon after, cannot be read ({error}); is it damaged?"
        ) from error


def _open_parquet(file: InputFile, column: str) -> Any:
    """The file, found to have a column of text."""
    try:
        import pyarrow as pa
        from pyarrow import parquet
    except ImportError as error:
        raise ImportError(
            f"input file {file.name!r} needs the package 'pyarrow': pip install 'titans-jax[data]'"
        ) from error
    try:
        opened = parquet.ParquetFile(file.path)
    except (pa.ArrowException, OSError) as error:
        raise ValueError(
            f"input file {file.name!r} cannot be read as Parquet ({error}); is it damaged?"
        ) from error
    schema = opened.schema_arrow
    if column not in schema.names:
        raise ValueError(
            f"input file {file.name!r} has no column --column={column!r}; it has {', '.join(schema.names)}"
        )
    kind = schema.field(column).type
    of = kind.value_type if pa.types.is_dictionary(kind) else kind
    text_kinds = {
        *(pa.string(), pa.large_string(), pa.string_view()),
        *(pa.binary(), pa.large_binary(), pa.binary_view()),
        pa.null(),  # a column of nulls has no other type
    }
    if of not in text_kinds:
        raise ValueError(
            f"input file {file.name!r}: column {column!r} is of type {kind}; it must be text"
        )
    return opened
