"""Which text is held out for validation: a rule that looks at one document alone, so that it is the same for everyone.

A document is held out by a hash of its text; copies of one go the same way. With few documents the hash may choose
none, or all: then the rule is another (see run.py).
"""

import hashlib
from mmap import mmap
from typing import NamedTuple

from titans_jax.data.characters import character_start

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
    """Where the last `tail` of a text begins, between two characters; `len(text)` for 0."""
    start = len(text) - round(len(text) * tail)
    return character_start(text, start) if 0 < start < len(text) else start
