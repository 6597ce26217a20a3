"""bAbI stories (Weston et al., 2015, arXiv 1502.05698) from their files, one question at a time.

A file holds stories, whose lines are numbered from 1:

    1 Mary moved to the bathroom.
    2 John went to the hallway.
    3 Where is Mary?<TAB>bathroom<TAB>1

A question is asked of all statements above it in its story. Questions above it are kept apart: training asks and
answers them where they stand, tests leave them out.
"""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np


class Earlier(NamedTuple):
    """A question above, behind so many facts of its story."""

    after: int
    question: str
    answer: str


class Story(NamedTuple):
    """What is told, what is asked, the answer, one word, and what was asked before."""

    facts: tuple[str, ...]
    question: str
    answer: str
    earlier: tuple[Earlier, ...] = ()

    def alone(self) -> "Story":
        """The story without earlier questions."""
        return self._replace(earlier=())


def find_file(folder: Path, task: int, part: str) -> Path:
    """The file of a task, qa1 to qa20, anywhere under a folder; of several (1k, 10k) the largest.

    Args:
      folder: where to look.
      task: its number.
      part: "train" or "test".

    Raises:
      FileNotFoundError: there is none.
    """
    found = sorted(folder.rglob(f"qa{task}_*_{part}.txt"))
    if not found:
        raise FileNotFoundError(
            f"no bAbI stories: {folder} and its folders hold no qa{task}_*_{part}.txt"
        )
    return max(found, key=lambda path: path.stat().st_size)


def read_stories(path: Path) -> list[Story]:
    """All questions of a file, in order.

    Raises:
      ValueError: it is not such a file; names the line.
    """
    stories: list[Story] = []
    facts: list[str] = []
    earlier: list[Earlier] = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        index, _, text = line.partition(" ")
        if not index.isdigit() or not text:
            raise ValueError(
                f"{path}, line {number}: must be a number and a sentence, got {line!r}"
            )
        if index == "1":
            facts, earlier = [], []
        question, tab, rest = text.partition("\t")
        if not tab:
            facts.append(text.strip())
            continue
        answer = rest.split("\t")[0].strip()
        if not facts or not answer:
            raise ValueError(f"{path}, line {number}: a question needs statements and an answer")
        question = question.strip()
        stories.append(Story(tuple(facts), question, answer, tuple(earlier)))
        earlier.append(Earlier(len(facts), question, answer))
    if not stories:
        raise ValueError(f"{path}: holds no question")
    return stories


def labels(stories: list[Story]) -> tuple[str, ...]:
    """All words that answer any of these questions."""
    return tuple(sorted({story.answer for story in stories}))


def exchanged(story: Story, groups: Sequence[Sequence[str]], rng: np.random.Generator) -> Story:
    """A story in which the words of a group stand for each other: another of the same task.

    The thousand stories of some files are soon known by heart; thousands of times as many are not.

    Args:
      story: what to change; its answers change with it.
      groups: of words, each word in one group; the words of each are permuted.
      rng: draws the permutations.
    """
    words = {
        word: other
        for group in groups
        for word, other in zip(group, rng.permutation(list(group)).tolist(), strict=True)
    }

    def change(text: str) -> str:
        return re.sub(r"\w+", lambda found: words.get(found[0], found[0]), text)

    return Story(
        tuple(map(change, story.facts)),
        change(story.question),
        change(story.answer),
        tuple(Earlier(e.after, change(e.question), change(e.answer)) for e in story.earlier),
    )
