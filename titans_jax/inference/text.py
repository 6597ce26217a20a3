"""Between text and streams: a file as an iterator of tokens, and generated text as it comes."""

from __future__ import annotations

import os
from collections.abc import Generator, Iterator, Sequence
from typing import Any

import numpy as np
from jaxtyping import Int32

from titans_jax.data.characters import BYTE_ORDER_MARK, character_start
from titans_jax.data.tokenizers import Tokenizer, encode_after
from titans_jax.inference.decode import generate_tokens
from titans_jax.inference.stream import Stream
from titans_jax.models.language_model import Titans

#: Bytes of a file that are in memory at once.
PIECE = 1 << 20
#: Tokens of a prompt that are decoded with what follows it, at first: how a token is written depends on its neighbours.
CONTEXT = 8
#: What decoders write for bytes that are no character, or not yet.
NO_CHARACTER = "\ufffd"


def file_tokens(
    path: str | os.PathLike[str], tokenizer: Tokenizer, *, piece: int = PIECE
) -> Iterator[Int32[np.ndarray, "T"]]:
    """The tokens of a file, piece by piece, so that it may be larger than RAM.

    A piece ends after a line break if there is one in the last half of ``piece`` bytes, else before a space, else
    between characters, so that hardly a token of a learned vocabulary is cut. A byte order mark before the text is
    left out.

    Args:
        path: of the file.
        tokenizer: what encodes it.
        piece: bytes read at once.

    Raises:
        OSError: the file cannot be read.
        ValueError: the tokenizer cannot read the text.
    """
    before = b""
    with open(path, "rb") as file:
        mark = file.read(len(BYTE_ORDER_MARK))
        rest = b"" if mark == BYTE_ORDER_MARK else mark
        while block := file.read(piece):
            text = rest + block
            end = _piece_end(text)
            text, rest = text[:end], text[end:]
            if text:
                yield encode_after(before, text, tokenizer)
                before = text[character_start(text, len(text) - 1) :]
    if rest:
        yield encode_after(before, rest, tokenizer)


def _piece_end(text: bytes) -> int:
    half = len(text) // 2
    after_line = text.rfind(b"\n", half) + 1
    # The last character may go on in the next block.
    return after_line or max(text.rfind(b" ", half), 0) or character_start(text, len(text) - 1)


def generate_text(
    model: Titans,
    tokenizer: Tokenizer,
    stream: Stream,
    num_tokens: int,
    *,
    prompt: Sequence[int] = (),
    **options: Any,
) -> Generator[str, None, Stream]:
    """Yields text as it is generated, and returns the stream.

    A character of several tokens waits until it is complete; bytes that never become one are written as U+FFFD. All
    pieces together are what the tokenizer makes of all tokens at once.

    Args:
        model: the language model.
        tokenizer: its tokenizer.
        stream: of one sequence; used up: give `stream.copy()` to keep it.
        num_tokens: at most this many.
        prompt: token ids that the text follows, of which the last few count: without them it is written as a
            document's beginning, and many tokenizers then drop the space before the first word.
        **options: of `generate_tokens`.

    Raises:
        ValueError: the stream holds several sequences, or is used up.
    """
    if stream.length.size != 1:
        raise ValueError(f"stream must hold one sequence, got {stream.length.size}")
    tokens = generate_tokens(model, stream, num_tokens, **options)
    text = _Text(tokenizer, prompt)
    while True:
        try:
            new = text.append(int(next(tokens)[0]))
        except StopIteration as stop:
            if tail := text.rest():
                yield tail
            return stop.value
        if new:
            yield new


def continuation_text(tokenizer: Tokenizer, prompt: Sequence[int], ids: Sequence[int]) -> str:
    """The text of tokens that follow a prompt, with the space that parts them from it.

    Args:
        tokenizer: what decodes them.
        prompt: token ids before, of which the last few count.
        ids: token ids.
    """
    text = _Text(tokenizer, prompt)
    return text.append(*ids) + text.rest()


class _Text:
    """Text that grows by tokens. What has been given out never changes, so it ends with a whole character."""

    def __init__(self, tokenizer: Tokenizer, prompt: Sequence[int]):
        self._tokenizer = tokenizer
        size = CONTEXT
        self._ids = [int(token) for token in prompt[-size:]]
        # From a visible character on, and not from the middle of one.
        while size < len(prompt) and not _stands_alone(self._decoded()):
            size *= 2
            self._ids = [int(token) for token in prompt[-size:]]
        self._settle(len(self._decoded()))

    def append(self, *tokens: int) -> str:
        """What more tokens make certain."""
        self._ids += tokens
        text = self._decoded()
        if text.endswith(NO_CHARACTER):
            return ""
        new = text[self._given :]
        if _stands_alone(new):  # what was before need not be decoded again
            self._ids = self._ids[self._settled :]
            text = self._decoded()
        self._settle(len(text))
        return new

    def rest(self) -> str:
        """What waits for a character to be completed."""
        return self._decoded()[self._given :]

    def _settle(self, given: int) -> None:
        # Tokens, and characters of their text, that need not be given out any more.
        self._settled, self._given = len(self._ids), given

    def _decoded(self) -> str:
        return self._tokenizer.decode(self._ids).decode(errors="replace")


def _stands_alone(text: str) -> bool:
    return bool(text.strip()) and not text.startswith(NO_CHARACTER)
