"""Tokenizers: raw bytes, a SentencePiece model, or a Hugging Face `tokenizers` file, behind one interface."""

import hashlib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np
from jaxtyping import Int32

from titans_jax.data.sources import Document

BYTES = "bytes"
# Names under which Hugging Face tokenizers keep the token that starts a text, the likeliest first.
_START_NAMES = ("<s>", "<bos>", "<|begin_of_text|>", "<|endoftext|>", "[CLS]", "</s>")


class Tokenizer(Protocol):
    """Text to token ids and back."""

    @property
    def vocab_size(self) -> int:
        """Number of token ids; every id is below it."""
        ...

    @property
    def start_token(self) -> int:
        """The id that stands before a document's first token, as context only: it is never predicted."""
        ...

    def encode(self, text: bytes) -> Int32[np.ndarray, " T"]:
        """Token ids of `text`, without a start token. ValueError if the tokenizer cannot read the text."""
        ...

    def decode(self, ids: Iterable[int]) -> bytes:
        """The text of token ids. ValueError for an id outside the vocabulary."""
        ...

    def fingerprint(self) -> str:
        """Hexadecimal SHA-256 of all that decides the ids, to refuse a checkpoint trained with another tokenizer."""
        ...


class TokenizedText(NamedTuple):
    """A corpus as tokens, with the exact count of bytes that bits per byte needs.

    documents: per document, the start token and then the text's tokens. All but the start token are targets.
    target_tokens: number of targets in all documents.
    target_bytes: number of bytes that these targets spell, so that bits per byte is
      (summed loss in nats) / (log(2) target_bytes), whatever the tokenizer.
    """

    documents: Sequence[Int32[np.ndarray, " T"]]
    target_tokens: int
    target_bytes: int


def tokenize(documents: Sequence[Document], tokenizer: Tokenizer) -> TokenizedText:
    """Encodes documents, each after a start token.

    Args:
      documents: texts, as from `read_documents`.
      tokenizer: what encodes them.

    Returns:
      The tokens of every document, in order, and what they count.

    Raises:
      ValueError: names the document that the tokenizer cannot read.
    """
    start = np.array([tokenizer.start_token], np.int32)
    arrays = []
    for document in documents:
        try:
            arrays.append(np.concatenate([start, tokenizer.encode(document.text)]))
        except ValueError as error:
            raise ValueError(f"document {document.name!r}: {error}") from error
    return TokenizedText(
        documents=arrays,
        target_tokens=sum(len(array) - 1 for array in arrays),
        target_bytes=sum(len(document.text) for document in documents),
    )


def encode_after(before: bytes, text: bytes, tokenizer: Tokenizer) -> Int32[np.ndarray, " T"]:
    """Token ids of a text that goes on another, without the space that some tokenizers put before all they are given.

    Args:
      before: the end of the other text, such as its last character.
      text: what follows.
      tokenizer: what encodes it.

    Raises:
      ValueError: the tokenizer cannot read it.
    """
    # A token may reach over from one to the other; hardly from a line to the next.
    for anchor in (before, b"\n"):
        head, whole = tokenizer.encode(anchor), tokenizer.encode(anchor + text)
        if np.array_equal(whole[: len(head)], head):
            return whole[len(head) :]
    return tokenizer.encode(text)


def load_tokenizer(spec: str) -> Tokenizer:
    """Loads a tokenizer by name or path.

    Args:
      spec: `"bytes"`; a path to a SentencePiece `.model`; or a path to a Hugging Face `tokenizers` `.json`.

    Raises:
      FileNotFoundError: the file is missing.
      ImportError: the file's library is not installed.
      ValueError: `spec` is none of the three, or the file is damaged.
    """
    if spec == BYTES:
        return ByteTokenizer()
    suffix = Path(spec).suffix
    if suffix == ".model":
        return SentencePieceTokenizer(spec)
    if suffix == ".json":
        return HuggingFaceTokenizer(spec)
    raise ValueError(
        f"unknown tokenizer {spec!r}; give {BYTES!r}, a SentencePiece file (.model) or a Hugging Face tokenizers "
        "file (.json)"
    )


class ByteTokenizer:
    """Every byte is its own id. A newline stands before a document, since no id is spare."""

    vocab_size = 256
    start_token = ord("\n")

    def encode(self, text: bytes) -> Int32[np.ndarray, " T"]:
        """The bytes as ids."""
        return np.frombuffer(text, np.uint8).astype(np.int32)

    def decode(self, ids: Iterable[int]) -> bytes:
        """The ids as bytes."""
        return bytes(_checked_ids(ids, self.vocab_size))

    def fingerprint(self) -> str:
        """SHA-256 of this tokenizer's name: there is nothing else to it."""
        return hashlib.sha256(BYTES.encode()).hexdigest()


class SentencePieceTokenizer:
    """A SentencePiece model file. Text must be UTF-8; what decoding restores is up to the model's normalisation."""

    def __init__(self, model_path: str):
        """Loads the file; raises as `load_tokenizer` does."""
        data = _read_tokenizer_file(model_path)
        try:
            import sentencepiece
        except ImportError as error:
            raise _missing_library("sentencepiece", model_path) from error
        self._processor = sentencepiece.SentencePieceProcessor()
        try:
            self._processor.LoadFromSerializedProto(data)
        except RuntimeError as error:
            raise _damaged(model_path, "SentencePiece model", error) from error
        self._fingerprint = hashlib.sha256(b"sentencepiece" + data).hexdigest()

    @property
    def vocab_size(self) -> int:
        """Number of pieces."""
        return self._processor.vocab_size()

    @property
    def start_token(self) -> int:
        """The model's BOS id; without one its EOS id, and without either its unknown id, which always exists."""
        candidates = (self._processor.bos_id(), self._processor.eos_id(), self._processor.unk_id())
        return next(i for i in candidates if i >= 0)

    def encode(self, text: bytes) -> Int32[np.ndarray, " T"]:
        """Piece ids of UTF-8 text."""
        return np.array(self._processor.EncodeAsIds(_utf8(text)), np.int32)

    def decode(self, ids: Iterable[int]) -> bytes:
        """UTF-8 text of piece ids."""
        return self._processor.DecodeIds(_checked_ids(ids, self.vocab_size)).encode()

    def fingerprint(self) -> str:
        """SHA-256 of the model file."""
        return self._fingerprint


class HuggingFaceTokenizer:
    """A `tokenizer.json` of Hugging Face `tokenizers`. Text must be UTF-8; no special tokens are added to it."""

    def __init__(self, json_path: str):
        """Loads the file; raises as `load_tokenizer` does."""
        data = _read_tokenizer_file(json_path)
        try:
            import tokenizers
        except ImportError as error:
            raise _missing_library("tokenizers", json_path) from error
        try:
            self._tokenizer = tokenizers.Tokenizer.from_buffer(data)
        except ValueError as error:
            raise _damaged(json_path, "Hugging Face tokenizers file", error) from error
        # Text that spells a special token is text: no document may hold the token that starts documents.
        self._tokenizer.encode_special_tokens = True
        # A file may ask for both, which would cut documents or fill them up.
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()
        ids = self._tokenizer.get_vocab(with_added_tokens=True).values()
        if not ids:
            raise _damaged(json_path, "Hugging Face tokenizers file", ValueError("no vocabulary"))
        self._vocab_size = max(ids) + 1
        added = self._tokenizer.get_added_tokens_decoder().items()
        self._special = {token: one.content for token, one in added if one.special}
        self._fingerprint = hashlib.sha256(b"tokenizers" + data).hexdigest()

    @property
    def vocab_size(self) -> int:
        """One more than the largest id, added tokens included."""
        return self._vocab_size

    @property
    def start_token(self) -> int:
        """The id of the first of the usual start tokens that exists, else 0."""
        ids = (self._tokenizer.token_to_id(name) for name in _START_NAMES)
        return next((i for i in ids if i is not None), 0)

    def encode(self, text: bytes) -> Int32[np.ndarray, " T"]:
        """Token ids of UTF-8 text."""
        characters = _utf8(text)
        encoding = self._tokenizer.encode(characters, add_special_tokens=False)
        ids = encoding.ids
        if not self._special.keys().isdisjoint(ids):
            spans = (characters[start:end] for start, end in encoding.offsets)
            ids = [
                i
                for token, span in zip(ids, spans, strict=True)
                for i in self._as_text(token, span)
            ]
        return np.array(ids, np.int32)

    def _as_text(self, token: int, span: str) -> list[int]:
        """The token, or its characters if it is a special one that the text only spells: some models know its name."""
        if self._special.get(token) != span:  # the unknown token may stand for any text
            return [token]
        found = (self._tokenizer.token_to_id(character) for character in span)
        ids = [i for i in found if i is not None]
        if len(ids) < len(span):
            raise ValueError(
                f"the text spells {span!r}, which is a special token of this tokenizer, and it has no other ids for it"
            )
        return ids

    def decode(self, ids: Iterable[int]) -> bytes:
        """UTF-8 text of token ids, special tokens included."""
        checked = _checked_ids(ids, self.vocab_size)
        return self._tokenizer.decode(checked, skip_special_tokens=False).encode()

    def fingerprint(self) -> str:
        """SHA-256 of the JSON file."""
        return self._fingerprint


def _read_tokenizer_file(path: str) -> bytes:
    if not Path(path).is_file():
        raise FileNotFoundError(
            f"tokenizer file {path!r} does not exist; give an existing file, or {BYTES!r} for the byte tokenizer"
        )
    return Path(path).read_bytes()


def _missing_library(library: str, path: str) -> ImportError:
    return ImportError(
        f"tokenizer {path!r} needs the package {library!r}: pip install 'titans-jax[text]'"
    )


def _damaged(path: str, kind: str, error: Exception) -> ValueError:
    return ValueError(
        f"tokenizer file {path!r} cannot be read as a {kind} ({error}); it may be damaged or of another kind"
    )


def _utf8(text: bytes) -> str:
    try:
        return text.decode()
    except UnicodeDecodeError as error:
        raise ValueError(
            f"the text is not UTF-8 (byte {error.start}: {error.reason}); only the {BYTES!r} tokenizer reads any bytes"
        ) from error


def _checked_ids(ids: Iterable[int], vocab_size: int) -> list[int]:
    checked = [int(i) for i in ids]
    for i in checked:
        if not 0 <= i < vocab_size:
            raise ValueError(f"token id {i} is outside the tokenizer's vocabulary of {vocab_size}")
    return checked
