"""RULER's single needle tasks: one sentence with a number or a UUID, hidden in noise or prose, and a question for it.

| task | Table 2 | haystack | place of the needle | value |
|---|---|---|---|---|
| single_1 | PK | one block of sentences, again and again | a line drawn uniformly | 7 digits |
| single_2 | N | prose | a sentence boundary at one of 40 depths | 7 digits |
| single_3 | W | prose | likewise | a UUID of version 4 |

A sample has as many lines (sentences) of haystack as fit into a number of tokens, prompt and answer together; that
number is found by bisection, with any tokenizer.
"""

import functools
import random
import re
import uuid
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from titans_jax.data.tokenizers import Tokenizer

TASKS = ("single_1", "single_2", "single_3")
NOISE = "The grass is green. The sky is blue. The sun is yellow. Here we go. There and back again."
DEPTHS = tuple(int(depth) for depth in np.round(np.linspace(0, 100, 40)))
INSTRUCTION = (
    "A special magic {kind} is hidden within the following text. Make sure to memorize it. "
    "I will quiz you about the {kind} afterwards.\n"
)
NEEDLE = "One of the special magic {kind}s for {key} is: {value}."
QUESTION = "\nWhat is the special magic {kind} for {key} mentioned in the provided text?"
PREFIX = " The special magic {kind} for {key} mentioned in the provided text is"
#: Needle and prefix of a bare prompt: the key and its value, and the key again.
BARE_NEEDLE = "for {key} is: {value}."
BARE_PREFIX = " for {key} is"


class Sample(NamedTuple):
    """One prompt with its answer.

    Attributes:
      prompt: up to and with the answer's prefix.
      answer: what follows: a space and the value.
      value: that a right answer contains.
      needle: the sentence that was hidden.
      depth: how much of the haystack's lines lie before it, in per cent.
    """

    prompt: str
    answer: str
    value: str
    needle: str
    depth: float


class Haystack(NamedTuple):
    """Lines to hide a needle among, and what stands between them."""

    lines: Sequence[str]
    separator: str


def noise(lines: int) -> Haystack:
    """The haystack of single_1: so many lines."""
    return Haystack([NOISE] * lines, "\n")


def prose(text: str) -> Haystack:
    """The sentences of a text; line breaks become spaces."""
    words = " ".join(text.split())
    return Haystack([s for s in re.split(r"(?<=[.!?])\s+", words) if s], " ")


@functools.cache
def _words() -> tuple[list[str], list[str]]:
    """Adjectives and nouns."""
    try:
        from wonderwords import RandomWord
    except ImportError as error:
        raise ImportError(
            "the needles' keys need the package wonderwords: pip install 'titans-jax[experiments]'"
        ) from error
    lists = (RandomWord().filter(include_parts_of_speech=[part]) for part in ("adjective", "noun"))
    adjectives, nouns = (sorted({word for word in words if " " not in word}) for words in lists)
    return adjectives, nouns


def _key(rng: random.Random) -> str:
    adjectives, nouns = _words()
    return f"{rng.choice(adjectives)}-{rng.choice(nouns)}"


def _value(task: str, rng: random.Random) -> str:
    if task == "single_3":
        return str(uuid.UUID(int=rng.getrandbits(128), version=4))
    return str(rng.randint(1_000_000, 9_999_999))


def make_sample(
    task: str,
    haystack: Haystack,
    length: int,
    tokenizer: Tokenizer,
    rng: random.Random,
    bare: bool = False,
) -> Sample:
    """A sample whose prompt and answer have at most `length` tokens, and no line fits any more.

    Args:
      task: one of `TASKS`.
      haystack: with more lines than fit; prose is read from a random line on.
      length: tokens.
      tokenizer: that counts them.
      rng: what draws key, value and place.
      bare: without the instruction and the question, and of needle and prefix only the end; what a training may start
        with. A batch then has several times as many answers, and a small model learns to recall from answers.

    Raises:
      ValueError: the length is too short for the needle and its question, or the haystack is shorter than the length.
    """
    key, value = _key(rng), _value(task, rng)
    kind = "uuid" if task == "single_3" else "number"
    start = 0 if task == "single_1" else rng.randrange(len(haystack.lines))
    place = rng.random() if task == "single_1" else rng.choice(DEPTHS) / 100

    def sample(lines: int) -> Sample:
        chosen = [haystack.lines[(start + i) % len(haystack.lines)] for i in range(lines)]
        # A line drawn uniformly; or the sentence boundary at the depth.
        before = int(place * lines)
        needle = (BARE_NEEDLE if bare else NEEDLE).format(kind=kind, key=key, value=value)
        context = haystack.separator.join([*chosen[:before], needle, *chosen[before:]])
        if bare:
            prompt = context + BARE_PREFIX.format(key=key)
        else:
            question = QUESTION.format(kind=kind, key=key)
            prefix = PREFIX.format(kind=kind, key=key)
            prompt = INSTRUCTION.format(kind=kind) + context + question + prefix
        depth = 100 * before / lines if lines else 0.0
        return Sample(prompt, f" {value}", value, needle, depth)

    def fits(lines: int) -> bool:
        one = sample(lines)
        return count_tokens(one.prompt, tokenizer) + count_tokens(one.answer, tokenizer) <= length

    if not fits(0):
        raise ValueError(
            f"lengths: {length} tokens are too few for a needle of {task} and its question"
        )
    return sample(_most(fits, len(haystack.lines), length))


def _most(fits: Callable[[int], bool], lines: int, length: int) -> int:
    """The largest number of lines that fits: doubled until it does not, then bisected."""
    low, high = 0, 1
    while fits(high):
        low, high = high, 2 * high
        if low > lines:
            raise ValueError(
                f"the haystack's {lines} lines are shorter than a context of {length} tokens: give more text"
            )
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    if low > lines:
        raise ValueError(
            f"the haystack's {lines} lines are shorter than a context of {length} tokens: give more text"
        )
    return low


def count_tokens(text: str, tokenizer: Tokenizer) -> int:
    """Tokens of a text."""
    return len(tokenizer.encode(text.encode()))


def check_tokenizer(tokenizer: Tokenizer) -> None:
    """Refuses a tokenizer that does not give back what a needle says.

    Raises:
      ValueError: with what came back.
    """
    needle = " " + NEEDLE.format(kind="number", key="brave-otter", value="0123456789-abcdef")
    try:
        back = tokenizer.decode(tokenizer.encode(needle.encode()).tolist()).decode(errors="replace")
    except ValueError as error:
        raise ValueError(f"the tokenizer cannot encode the needle {needle!r}: {error}") from error
    if back.strip() != needle.strip():
        raise ValueError(
            f"the tokenizer cannot encode the needle {needle!r}: it gives back {back!r}"
        )


def is_right(answer: str, value: str) -> bool:
    """Whether a generated answer contains the value, whatever the case."""
    return value.lower() in answer.lower()
