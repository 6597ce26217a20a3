"""BABILong's samples (Kuratov et al., 2024, arXiv 2406.10149): a story's facts in order, spread through prose.

The background is the sentences of a text from a random place on. Each fact stands before a sentence that is drawn
uniformly, in the order of the story, and so much background is taken that facts, background and question together
have the wanted number of tokens exactly: what is too much is cut off at the front of the background. The length 0 has
no background.

    <facts and background>
    Question: Where is Mary?
    Answer: bathroom.

A story's earlier questions, if it has any, stand with their answers behind the fact that they follow.
"""

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Int

from experiments.babilong.stories import Earlier, Story
from titans_jax.data import Tokenizer

_QUOTES = "\"'\u2019\u201d)\\]"  # after a sentence; before one: straight or opening
_SENTENCE_END = re.compile(
    rf"(?:(?<=[.!?])|(?<=[.!?][{_QUOTES}]))\s+(?=[\"'\u2018\u201c(\[]*[A-Z0-9])"
)
#: Sentences that go into one array, so that a long sample is some arrays and not a hundred thousand.
TOGETHER = 256


class Sample(NamedTuple):
    """A prompt as arrays of token ids, one after the other, and the tokens that should follow it.

    Attributes:
      prompt: start token first.
      answer: of the last question.
      answered: where in the prompt the tokens of answers to earlier questions are.
    """

    prompt: list[Int[np.ndarray, "T"]]
    answer: Int[np.ndarray, "T"]
    answered: Int[np.ndarray, "A"]

    def tokens(self) -> Int[np.ndarray, "T"]:
        """The prompt in one array."""
        return np.concatenate(self.prompt)


class Prose:
    """A text as sentences of token ids."""

    def __init__(self, texts: Sequence[str], tokenizer: Tokenizer):
        """Splits texts into sentences and encodes them, each with a space before it, as words
        inside a text have it.

        Args:
          texts: of books.
          tokenizer: what encodes them.
        """
        sentences = [s for text in texts for s in split_sentences(text)]
        encoded = [tokenizer.encode((" " + s).encode()) for s in sentences]
        self.tokens = np.concatenate([np.zeros(0, np.int32), *encoded])
        #: Where each sentence starts, and where the last one ends.
        self.starts = np.concatenate([[0], np.cumsum([len(ids) for ids in encoded])]).astype(int)

    @property
    def size(self) -> int:
        """Tokens in all."""
        return len(self.tokens)


def split_sentences(text: str) -> list[str]:
    """The sentences of a text, each on one line; good enough to find places where a fact may stand."""
    return [s for s in _SENTENCE_END.split(" ".join(text.split())) if s]


def read_prose(paths: Sequence[Path], tokenizer: Tokenizer, longest: int) -> Prose:
    """Reads the background.

    Args:
      paths: text files.
      tokenizer: what encodes them.
      longest: context, in tokens, that it must be enough for.

    Raises:
      OSError: a file is missing.
      ValueError: a file is not UTF-8, or the prose is shorter than the context.
    """
    if not paths:
        raise FileNotFoundError("no prose: give at least one text file for the background")
    prose = Prose([path.read_text(encoding="utf-8") for path in paths], tokenizer)
    if prose.size <= longest:
        raise ValueError(
            f"a context of {longest:,} tokens is longer than the prose: {', '.join(p.name for p in paths)} "
            f"hold {prose.size:,} tokens together; give more text, or shorter lengths"
        )
    return prose


def question_tokens(story: Story | Earlier, tokenizer: Tokenizer) -> Int[np.ndarray, "T"]:
    """The question, up to where the answer begins."""
    return tokenizer.encode(f"\nQuestion: {story.question}\nAnswer:".encode())


def answer_tokens(story: Story | Earlier, tokenizer: Tokenizer) -> Int[np.ndarray, "T"]:
    """What a model should say."""
    return tokenizer.encode(f" {story.answer}.".encode())


class Piece(NamedTuple):
    """A fact with a space before it and what is asked behind it; and which of its tokens are answers."""

    ids: Int[np.ndarray, "T"]
    answers: Bool[np.ndarray, "T"]


def fact_pieces(story: Story, tokenizer: Tokenizer) -> list[Piece]:
    """The facts, each with the earlier questions behind it."""
    pieces = []
    for number, fact in enumerate(story.facts, 1):
        parts = [(tokenizer.encode((" " + fact).encode()), False)]
        for asked in story.earlier:
            if asked.after == number:
                parts += [
                    (question_tokens(asked, tokenizer), False),
                    (answer_tokens(asked, tokenizer), True),
                ]
        ids = np.concatenate([ids for ids, _ in parts])
        flags = np.concatenate([np.full(len(ids), flag) for ids, flag in parts])
        pieces.append(Piece(ids, flags))
    return pieces


def shortest(story: Story, tokenizer: Tokenizer) -> int:
    """Tokens of a story's prompt without background, its start token included."""
    facts = sum(len(piece.ids) for piece in fact_pieces(story, tokenizer))
    return 1 + facts + len(question_tokens(story, tokenizer))


def make_sample(
    story: Story,
    prose: Prose,
    length: int,
    tokenizer: Tokenizer,
    rng: np.random.Generator,
) -> Sample:
    """Hides a story.

    Args:
      story: what to hide.
      prose: the background.
      length: of the prompt in tokens, its start token included; 0 for no background.
      tokenizer: of facts and question; the same as the prose's.
      rng: draws the background's place and the facts' places.

    Raises:
      ValueError: the story is longer, or the prose shorter, than the length.
    """
    facts, question = fact_pieces(story, tokenizer), question_tokens(story, tokenizer)
    start = np.array([tokenizer.start_token], np.int32)
    least = shortest(story, tokenizer)
    if length and least > length:
        raise ValueError(f"length={length}: the story alone has {least} tokens")
    background = max(0, length - least)
    sentences = list(_background(prose, background, rng))
    # The first may have been cut off at its front: no fact stands before it, in the middle of nothing.
    places = np.sort(rng.integers(min(1, len(sentences)), len(sentences) + 1, len(facts)))
    parts, before, answered = [start], 0, []
    written = 1  # tokens so far
    for place, fact in zip(places, facts, strict=True):
        told = sentences[before:place]
        written += sum(map(len, told))
        answered.append(written + np.flatnonzero(fact.answers))
        written += len(fact.ids)
        parts += [*told, fact.ids]
        before = place
    parts += [*sentences[before:], question]
    prompt = [np.concatenate(parts[i : i + TOGETHER]) for i in range(0, len(parts), TOGETHER)]
    return Sample(prompt, answer_tokens(story, tokenizer), np.concatenate(answered))


def _background(
    prose: Prose, count: int, rng: np.random.Generator
) -> Iterator[Int[np.ndarray, "T"]]:
    """So many tokens of whole sentences, of which the first lacks what is too much."""
    if not count:
        return
    # Of all sentences, those that so many tokens may end with.
    first = int(np.searchsorted(prose.starts, count))
    if first == len(prose.starts):
        raise ValueError(f"length: the prose has {prose.size} tokens, the background needs {count}")
    last = int(rng.integers(first, len(prose.starts)))
    end = int(prose.starts[last])
    begin = end - count
    bounds = prose.starts[int(np.searchsorted(prose.starts, begin, side="right")) : last]
    yield from np.split(prose.tokens[begin:end], bounds - begin)
