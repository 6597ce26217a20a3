"""Between text and streams: a file as an iterator of tokens, and generated text as it comes."""

from __future__ import annotations

import codecs
import os
from collections.abc import Generator, Iterator
from typing import Any

import numpy as np
from jaxtyping import Int32

from titans_jax.data.tokenizers import Tokenizer
from titans_jax.inference.decode import generate_tokens
from titans_jax.inference.stream import Stream
from titans_jax.models.language_model import Titans

#: Bytes of a file that are in memory at once.
PIECE = 1 << 20
#: Tokens that are decoded again with each new one: how a piece is written may depend on its neighbours.
CONTEXT = 8


def file_tokens(
    path: str | os.PathLike[str], tokenizer: Tokenizer, *, piece: int = PIECE
) -> Iterator[Int32[np.ndarray, "T"]]:
    """The tokens of a file, piece by piece, so that it may be larger than RAM.

    Pieces end after a line break if there is one in the last half of ``piece`` bytes, so that hardly a
    token of a learned vocabulary is cut; bytes are tokens wherever they are cut.

    Args:
        path: of the file.
        tokenizer: what encodes it.
        piece: bytes read at once.

    Raises:
        OSError: the file cannot be read.
    """
    rest = b""
    with open(path, "rb") as file:
        while block := file.read(piece):
            text = rest + block
            end = text.rfind(b"\n", len(text) // 2) + 1 or len(text)
            rest = text[end:]
            yield tokenizer.encode(text[:end])
    if rest:
        yield tokenizer.encode(rest)


def generate_text(
    model: Titans, tokenizer: Tokenizer, stream: Stream, num_tokens: int, **options: Any
) -> Generator[str, None, Stream]:
    """Yields text as it is generated, and returns the stream.

    Bytes that are not yet a character wait for those that complete it; what never becomes one is
    written as U+FFFD.

    Args:
        model: the language model.
        tokenizer: its tokenizer.
        stream: of one sequence; used up.
        num_tokens: at most this many.
        **options: of `generate_tokens`.

    Raises:
        ValueError: the stream holds several sequences.
    """
    if stream.length.size != 1:
        raise ValueError(f"stream must hold one sequence, got {stream.length.size}")
    tokens = generate_tokens(model, stream, num_tokens, **options)
    decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
    ids: list[int] = []
    while True:
        try:
            ids.append(int(next(tokens)[0]))
        except StopIteration as stop:
            if tail := decoder.decode(b"", final=True):
                yield tail
            return stop.value
        before = tokenizer.decode(ids[:-1])
        if new := decoder.decode(tokenizer.decode(ids)[len(before) :]):
            yield new
        ids = ids[-CONTEXT:]
