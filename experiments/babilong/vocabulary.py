"""The tokenizer of the BABILong experiment: a given one, or a byte-pair encoding of the texts at hand.

A sentence of a story is some seven tokens of a small encoding, and about forty bytes: a small model sees a story whole.
"""

from collections.abc import Iterable
from pathlib import Path

import numpy as np
from jaxtyping import Int32

from titans_jax.data import Tokenizer, load_tokenizer

TRAINED = "bpe:"


def make_tokenizer(spec: str, texts: Iterable[str], folder: Path) -> Tokenizer:
    """Loads a tokenizer, or trains it and keeps it in a folder.

    Args:
      spec: "bpe:SIZE", or what `load_tokenizer` takes.
      texts: to train on.
      folder: where a trained one is kept; there already, it is only read.

    Raises:
      ValueError, OSError, ImportError: as `load_tokenizer`.
    """
    if not spec.startswith(TRAINED):
        return Remembering(load_tokenizer(spec))
    size = spec.removeprefix(TRAINED)
    if not size.isdigit() or int(size) < 300:
        raise ValueError(f"config.tokenizer={spec!r}: must be bpe:SIZE with a size of at least 300")
    path = folder / f"bpe_{size}.json"
    if not path.exists():
        try:
            import tokenizers
        except ImportError as error:
            raise ImportError(
                f"config.tokenizer={spec!r} needs the package 'tokenizers': pip install 'titans-jax[text]'"
            ) from error
        trained = tokenizers.ByteLevelBPETokenizer()
        trained.train_from_iterator(
            texts, vocab_size=int(size), special_tokens=["<s>"], show_progress=False
        )
        folder.mkdir(parents=True, exist_ok=True)
        trained.save(str(path))
    return Remembering(load_tokenizer(str(path)))


class Remembering:
    """A tokenizer that encodes what it has met once without work: a story's sentences are few."""

    #: Longest text that is remembered.
    LONGEST = 200

    def __init__(self, tokenizer: Tokenizer):
        self._tokenizer = tokenizer
        self._known: dict[bytes, Int32[np.ndarray, "T"]] = {}
        self.vocab_size = tokenizer.vocab_size
        self.start_token = tokenizer.start_token
        self.decode = tokenizer.decode
        self.fingerprint = tokenizer.fingerprint

    def encode(self, text: bytes) -> Int32[np.ndarray, "T"]:
        """Token ids; not to be written to."""
        if len(text) > self.LONGEST:
            return self._tokenizer.encode(text)
        if text not in self._known:
            self._known[text] = self._tokenizer.encode(text)
        return self._known[text]
