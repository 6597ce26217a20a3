"""DNA, one token per nucleotide, behind the interface of the other tokenizers.

The rule for letters: A, C, G, T and N are tokens. The IUPAC codes that stand for several nucleotides (R Y S W K M B D
H V) are read as N, or refused with `ambiguous="refuse"`. All else is refused by name and position: U (RNA), gaps,
digits, white space. Lower case, by which genomes mark repeats, is read as upper case unless `keep_case`.
"""

import dataclasses
import hashlib
from collections.abc import Iterable
from typing import Literal

import numpy as np
from jaxtyping import Int, Int32

from titans_jax.fields import check_fields, field, flag, one_of

Ambiguous = Literal["N", "refuse"]

LETTERS = b"ACGTN"
COMPLEMENTS = b"TGCAN"
#: IUPAC codes of two or three nucleotides.
AMBIGUITY_CODES = b"RYSWKMBDHV"
#: How the start token and the mask token are spelt when they are decoded; no sequence holds these.
START, MASK = b"^", b"_"
_UNKNOWN = -1


@dataclasses.dataclass(frozen=True)
class NucleotideTokenizer:
    """Every nucleotide is a token; two more stand for a sequence's start and for a nucleotide that is hidden.

    Attributes:
      keep_case: whether lower-case letters are tokens of their own.
      ambiguous: what becomes of a code for several nucleotides: "N" or "refuse".
    """

    keep_case: bool = field(False, flag)
    ambiguous: Ambiguous = field("N", one_of(Ambiguous))

    def __post_init__(self) -> None:
        check_fields(self)

    @property
    def letters(self) -> bytes:
        """The letters in the order of their ids, the start token and the mask token last."""
        return LETTERS + (LETTERS.lower() if self.keep_case else b"") + START + MASK

    @property
    def vocab_size(self) -> int:
        """7, or 12 where case is kept."""
        return len(self.letters)

    @property
    def start_token(self) -> int:
        """The last id but one."""
        return self.vocab_size - 2

    @property
    def mask_token(self) -> int:
        """The last id."""
        return self.vocab_size - 1

    def encode(self, text: bytes) -> Int32[np.ndarray, " T"]:
        """Ids of a sequence.

        Raises:
          ValueError: for a letter that the rule above refuses, with its position, counted from 1.
        """
        ids = self._ids()[np.frombuffer(text, np.uint8)]
        wrong = np.flatnonzero(ids == _UNKNOWN)
        if wrong.size:
            first = int(wrong[0])
            raise ValueError(self._refusal(text[first : first + 1], first + 1))
        return ids

    def decode(self, ids: Iterable[int]) -> bytes:
        """The letters of ids; `^` is the start token, `_` the mask token.

        Raises:
          ValueError: for an id outside the vocabulary.
        """
        checked = [int(i) for i in ids]
        for i in checked:
            if not 0 <= i < self.vocab_size:
                raise ValueError(
                    f"token id {i} is outside the tokenizer's vocabulary of {self.vocab_size}"
                )
        return bytes(self.letters[i] for i in checked)

    def fingerprint(self) -> str:
        """SHA-256 of what decides the ids."""
        content = b"nucleotides" + self.letters + self.ambiguous.encode()
        return hashlib.sha256(content).hexdigest()

    def reverse_complement(self, ids: Int[np.ndarray, "*B T"]) -> Int[np.ndarray, "*B T"]:
        """The other strand, read in its own direction. No padding may stand among the ids.

        Args:
          ids: token ids; along the last axis lies the sequence.
        """
        partners = COMPLEMENTS + (COMPLEMENTS.lower() if self.keep_case else b"") + START + MASK
        table = np.array([self.letters.index(letter) for letter in partners], ids.dtype)
        return table[ids[..., ::-1]]

    def _ids(self) -> Int32[np.ndarray, " 256"]:
        """The id of every byte; `_UNKNOWN` for what is refused."""
        table = np.full(256, _UNKNOWN, np.int32)
        lower = LETTERS.lower()
        table[list(LETTERS)] = range(len(LETTERS))
        start = len(LETTERS) if self.keep_case else 0
        table[list(lower)] = range(start, start + len(lower))
        if self.ambiguous == "N":
            table[list(AMBIGUITY_CODES)] = table[ord("N")]
            table[list(AMBIGUITY_CODES.lower())] = table[ord("n")]
        return table

    def _refusal(self, letter: bytes, position: int) -> str:
        shown = letter.decode("ascii", "backslashreplace")
        if letter.upper() in AMBIGUITY_CODES:
            hint = "a code for several nucleotides; ambiguous='N' reads it as N"
        elif letter.upper() == b"U":
            hint = "RNA; write T for U"
        else:
            hint = f"letters must be of {LETTERS.decode()} or IUPAC's {AMBIGUITY_CODES.decode()}"
        return f"letter {shown!r} at position {position} is no nucleotide of DNA: {hint}"
