"""UTF-8 as it lies in files: where a character starts, and the mark that some programs put before a text."""

from __future__ import annotations

import codecs
import os
from mmap import mmap
from pathlib import Path

#: What some programs, most of them on Windows, write before a text to say that it is UTF-8. It is no part of the text.
BYTE_ORDER_MARK = codecs.BOM_UTF8


def character_start(text: bytes | mmap, position: int) -> int:
    """Moves a position back to where a character starts; bytes that are no UTF-8 are cut where they are.

    Args:
        text: UTF-8.
        position: in it, from 0 to below its length.
    """
    # A character has at most three bytes after its first.
    back = (n for n in range(min(position, 3) + 1) if text[position - n] & 0xC0 != 0x80)
    return position - next(back, 0)


def text_size(path: str | os.PathLike[str]) -> int:
    """Bytes of the text of a file, without a byte order mark before it.

    Args:
        path: of the file.

    Raises:
        OSError: it cannot be read.
    """
    with Path(path).open("rb") as file:
        mark = file.read(len(BYTE_ORDER_MARK))
        return os.fstat(file.fileno()).st_size - (len(mark) if mark == BYTE_ORDER_MARK else 0)
