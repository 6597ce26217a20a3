"""Which text is held out for validation: a rule that looks at one document alone, so that it is the same for everyone.

A document is held out by a hash of its text; copies of one go the same way. Where that holds out less than a third of
the wanted bytes or more than three times as many, as with few documents or one that is much larger than the others,
the tail of every document is held out instead (see run.py).
"""

import hashlib
from mmap import mmap
from typing import NamedTuple

from titans_jax.data.characters import character_start

#: How many times the wanted bytes, or what part of them, whole documents may hold out.
NEAR = 3
_KEYS = 1 << 64


class Rule(NamedTuple):
    """What is held out.

    below: documents whose key is below this, whole.
    tail: of every other document, the last so many of its bytes, as a fraction.
    """

    below: int
    tail: float = 0.0


def rule_for(fraction: float) -> Rule:
    """The rule that holds out about this fraction of all documents."""
    return Rule(int(fraction * _KEYS))


def document_key(text: bytes | mmap) -> int:
    """A number in [0, 2**64) that depends on the text only."""
    return int.from_bytes(hashlib.sha256(text).digest()[:8], "big")


def tail_start(text: bytes | mmap, tail: float) -> int:
    """Where the last `tail` of a text begins, between two characters; `len(text)` for 0.

    Of a text that can be divided at least a character is held out, and below 1 at least one is not.
    """
    size = len(text)
    if not tail or size < 2:
        return size
    start = character_start(text, size - max(1, round(size * tail)))
    if start or tail == 1:
        return start
    after = (n for n in range(1, size) if character_start(text, n) == n)
    return next(after, size)
