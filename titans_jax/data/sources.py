"""Where text comes from, and how it is divided into training and validation text.

A corpus is a list of `Document`s: named pieces of raw bytes. Nothing here knows of tokens.
"""

import glob
import hashlib
import mmap
import os
import sys
import sysconfig
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from titans_jax.data.characters import BYTE_ORDER_MARK

STANDARD_LIBRARY = "stdlib"

# Parts of the standard library that some distributions leave out or patch, so that one Python version means one
# corpus; and two folders of generated tables, which are no text that a person wrote.
_LEFT_OUT_MODULES = frozenset(
    {"distutils", "ensurepip", "idlelib", "lib2to3", "tkinter", "turtle", "turtledemo", "venv"}
    | {"encodings", "pydoc_data"}
)
_LEFT_OUT_FOLDERS = frozenset(("test", "tests", "__pycache__"))


class Document(NamedTuple):
    """One text, named so that it can be told from the others (a path relative to what was read)."""

    name: str
    text: bytes


#: What a file's name says that it holds; any other is text.
KINDS = {
    ".jsonl": "JSON Lines",
    ".ndjson": "JSON Lines",
    ".parquet": "Parquet",
    ".pq": "Parquet",
    ".parq": "Parquet",
    ".json": "JSON",
    **dict.fromkeys((".gz", ".bgz", ".bz2", ".xz", ".zst", ".zip", ".lz4", ".7z"), "compressed"),
}


def file_kind(path: str | os.PathLike[str]) -> str:
    """What a file holds, by its name: "text" or one of `KINDS`.

    Args:
      path: of the file.
    """
    return KINDS.get(Path(path).suffix.lower(), "text")


def require_text(beginning: bytes | mmap.mmap, where: str) -> None:
    """Refuses bytes that no text has: a zero byte, as in pictures, archives, and UTF-16.

    Args:
      beginning: of the text; its first 64 KiB are looked at.
      where: names it in the error.

    Raises:
      ValueError: there is a zero byte.
    """
    place = beginning.find(b"\0", 0, 1 << 16)
    if place >= 0:
        raise ValueError(f"{where} is no text: byte {place} is zero; text must be UTF-8")


class SourceFile(NamedTuple):
    """A file of a corpus, named by its path relative to what was asked for."""

    name: str
    path: Path


def find_files(path: str | os.PathLike[str]) -> list[SourceFile]:
    """Finds the files of a corpus without reading them.

    Args:
      path: one of
        * a file;
        * a folder: every file below it, hidden ones left out;
        * a glob (`**` crosses folders), e.g. `books/*.txt`: every file that matches, likewise.

    Returns:
      Files sorted by name: the same list on every machine. May be empty for a folder or a glob.

    Raises:
      FileNotFoundError: nothing is at `path`.
    """
    name = os.path.expanduser(os.fspath(path))
    if os.path.isfile(name):
        return [SourceFile(os.path.basename(name), Path(name))]
    if os.path.isdir(name):
        return _named_files(Path(name).rglob("*"), root=Path(name))
    if glob.has_magic(name):
        matches = (Path(match) for match in glob.iglob(name, recursive=True))
        return _named_files(matches, root=_glob_root(name))
    raise FileNotFoundError(
        f"path {name!r} does not exist (looked from {os.getcwd()!r}); give a file, a folder or a glob"
    )


def read_documents(path: str | os.PathLike[str] | bytes) -> list[Document]:
    """Reads a corpus.

    Args:
      path: one of
        * raw `bytes`: one document;
        * a file: one document;
        * a folder: every file below it, in sorted order, hidden and empty ones left out;
        * a glob (`**` crosses folders), e.g. `books/*.txt`: every file that matches, likewise;
        * `"stdlib"`: the running Python's own standard library, as the `.py` sources of its modules without tests
          (see `standard_library`). A file of that name is `./stdlib`.

    Returns:
      Non-empty documents, sorted by name, without the byte order marks of files; the same files give the same list on
      every machine.

    Raises:
      FileNotFoundError: nothing is at `path`.
      ValueError: `path` holds no text (an empty file, a folder or glob with no non-empty file), or a file that is no
        text: of records, compressed, or with a zero byte.
    """
    if isinstance(path, bytes):
        if not path:
            raise ValueError("data: the given bytes are empty; give at least one byte of text")
        return [Document("bytes", path)]
    name = os.path.expanduser(os.fspath(path))
    if not name:
        raise ValueError(
            f'data path is empty; give a file, a folder, a glob or "{STANDARD_LIBRARY}"'
        )
    if name == STANDARD_LIBRARY:
        return standard_library()
    if os.path.isfile(name):
        text = _read(Path(name))
        if not text:
            raise ValueError(f"data path {name!r} is an empty file; give a file that holds text")
        return [Document(os.path.basename(name), text)]
    if os.path.isdir(name):
        return _read_files(find_files(name), described=f"folder {name!r}")
    if glob.has_magic(name):
        return _read_files(find_files(name), described=f"glob {name!r}")
    raise FileNotFoundError(
        f"data path {name!r} does not exist (looked from {os.getcwd()!r}); give a file, a folder, a glob or "
        f'"{STANDARD_LIBRARY}"'
    )


def standard_library() -> list[Document]:
    """The running Python's own library as a corpus: real text that is on every machine.

    Returns:
      The `.py` sources of the modules in `sys.stdlib_module_names`, sorted by name: about 8 MB. The list of
      modules, not the folder, decides, so that site-packages and a distribution's additions stay out; left out too
      are tests, generated tables, and the parts that not every distribution ships.

    Raises:
      FileNotFoundError: this Python comes without its sources (e.g. inside a zip file).
    """
    root = Path(sysconfig.get_paths()["stdlib"])
    paths: list[Path] = []
    for module in sys.stdlib_module_names - _LEFT_OUT_MODULES:
        paths.append(root / f"{module}.py")
        paths.extend((root / module).rglob("*.py"))
    wanted = (p for p in paths if _LEFT_OUT_FOLDERS.isdisjoint(p.relative_to(root).parts))
    try:
        return _read_files(_named_files(wanted, root), described="the Python standard library")
    except ValueError:
        raise FileNotFoundError(
            f'data path "{STANDARD_LIBRARY}": this Python has no .py sources in {os.fspath(root)!r}; '
            "give a text file or folder instead"
        ) from None


def split_documents(
    documents: Sequence[Document], valid_fraction: float, seed: int = 0
) -> tuple[list[Document], list[Document]]:
    """Divides a corpus into training and validation text that never overlap.

    Whole documents are held out, in an order that depends on `seed` and each document's name only, as long as they
    fit in the wanted size; documents of equal text stay together. If they leave more than half of it open, as with
    one or a few large documents, the rest is the tail of the largest training document.

    Args:
      documents: what `read_documents` returned.
      valid_fraction: wanted share of the bytes held out, in (0, 1).
      seed: another seed holds out other documents.

    Returns:
      (train, valid), each in the order of `documents`, each non-empty.

    Raises:
      ValueError: `valid_fraction` is not in (0, 1), or the text is too short to be divided.
    """
    if not 0.0 < valid_fraction < 1.0:
        raise ValueError(
            f"valid_fraction is {valid_fraction}; it must lie between 0 and 1, e.g. 0.05"
        )
    total = sum(len(document.text) for document in documents)
    wanted = max(1, round(total * valid_fraction))
    if wanted >= total:
        raise ValueError(
            f"the data holds {total} bytes, too few to hold out valid_fraction={valid_fraction} of them; "
            "give more text"
        )

    sizes: dict[bytes, int] = {}
    first_name: dict[bytes, str] = {}
    for document in documents:
        sizes[document.text] = sizes.get(document.text, 0) + len(document.text)
        first_name.setdefault(document.text, document.name)
    held_out: set[bytes] = set()
    missing = wanted
    for text in sorted(sizes, key=lambda text: _shuffle_key(first_name[text], seed)):
        if sizes[text] <= missing:
            held_out.add(text)
            missing -= sizes[text]
    train = [document for document in documents if document.text not in held_out]
    valid = [document for document in documents if document.text in held_out]

    if missing > wanted // 2:
        largest = max(range(len(train)), key=lambda i: len(train[i].text))
        name, text = train[largest]
        if len(text) < 2:
            raise ValueError("the data is one byte, over and over: there is nothing to hold out")
        cut = _character_start(text, max(1, len(text) - missing))
        # Copies of the document must not keep what is held out of it.
        train = [d if d.text != text else d._replace(text=text[:cut]) for d in train]
        valid.append(Document(f"{name} (from byte {cut})", text[cut:]))
    return train, valid


def _named_files(paths: Iterable[Path], root: Path) -> list[SourceFile]:
    files = []
    for path in paths:
        relative = path.relative_to(root)
        if path.is_file() and not any(part.startswith(".") for part in relative.parts):
            files.append(SourceFile(relative.as_posix(), path))
    return sorted(files)


def _read_files(files: Sequence[SourceFile], described: str) -> list[Document]:
    documents = [Document(file.name, _read(file.path)) for file in files]
    documents = [document for document in documents if document.text]
    if not documents:
        raise ValueError(f"data path: {described} holds no non-empty file; give one that does")
    return documents


def _read(path: Path) -> bytes:
    kind = file_kind(path)
    if kind != "text":
        raise ValueError(
            f"data path: {os.fspath(path)!r} is no text file ({kind}); python -m experiments.prepare_data reads JSON "
            "Lines and Parquet, whatever is compressed must be decompressed first"
        )
    text = path.read_bytes().removeprefix(BYTE_ORDER_MARK)
    require_text(text, f"data path: {os.fspath(path)!r}")
    return text


def _glob_root(pattern: str) -> Path:
    """The longest leading folder of a glob without a wildcard in it."""
    parts = Path(pattern).parts
    fixed = next(i for i, part in enumerate(parts) if glob.has_magic(part))
    return Path(*parts[:fixed])


def _shuffle_key(name: str, seed: int) -> bytes:
    # A hash rather than a random generator: its order is the same in every version of every library.
    return hashlib.sha256(f"{seed}:{name}".encode()).digest()


def _character_start(text: bytes, position: int) -> int:
    """Moves `position` forward to the start of a UTF-8 character; bytes that are no UTF-8 are cut where they are."""
    for candidate in range(position, min(position + 4, len(text))):
        if text[candidate] & 0xC0 != 0x80:
            return candidate
    return position
