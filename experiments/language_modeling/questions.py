"""Zero-shot questions from JSON Lines files.

A line is `{"id": ..., "label": ..., "zero_shot": [[context, continuation], ...], ...}`. What kind of task a file holds
follows from its lines, so that a file of a new task needs no code:

* word: one request a line, whose continuation the model should find by itself (LAMBADA);
* choice: several continuations of one context, of which `label` is the index of the right one (PIQA, ARC);
* partial: one continuation of several contexts, in each of which another choice is filled in (WinoGrande, scored as
  Trinh and Le, 2018, arXiv 1806.02847, do).
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Literal, NamedTuple

Kind = Literal["word", "choice", "partial"]


class Request(NamedTuple):
    """A continuation, and the text whose continuation it is."""

    context: str
    continuation: str


class Question(NamedTuple):
    """The requests of one question, and the index of the right one."""

    requests: tuple[Request, ...]
    label: int


class Task(NamedTuple):
    """The questions of a file."""

    name: str
    kind: Kind
    questions: tuple[Question, ...]


def find_tasks(folder: Path, names: Sequence[str] = (), limit: int = 0) -> list[Task]:
    """Reads the tasks of a folder.

    Args:
      folder: of the `*.jsonl` files.
      names: which of them, by the file's name without its ending or the beginning of it; none for all.
      limit: keep at most so many questions of each, evenly spread over the file; 0 for all.

    Raises:
      FileNotFoundError: a file is missing.
      ValueError: one cannot be read; names file and line.
    """
    files = sorted(folder.glob("*.jsonl"))
    if not files:
        raise FileNotFoundError(
            f"no questions: {folder} has no *.jsonl file (one line per question, with zero_shot and label)"
        )
    if names:
        chosen = []
        for name in names:
            found = [path for path in files if path.stem.startswith(name)]
            if len(found) != 1:
                raise FileNotFoundError(
                    f"task {name!r}: must begin the name of one file of {[p.stem for p in files]} in {folder}"
                )
            chosen += found
        files = chosen
    return [read_task(path, limit) for path in files]


def read_task(path: Path, limit: int = 0) -> Task:
    """Reads one file; see `find_tasks`."""
    questions = []
    with path.open(encoding="utf-8") as file:
        for number, line in enumerate(file, 1):
            try:
                questions.append(_question(json.loads(line)))
            except (KeyError, TypeError, ValueError) as error:
                raise ValueError(f"{path}, line {number}: not a question ({error!r})") from error
    if not questions:
        raise ValueError(f"{path}: holds no question")
    kinds = {_kind(question) for question in questions}
    if len(kinds) != 1:
        raise ValueError(f"{path}: holds questions of several kinds, {sorted(kinds)}")
    if 0 < limit < len(questions):
        # Not the first ones: files are often in order of their source or topic.
        questions = [questions[i * len(questions) // limit] for i in range(limit)]
    return Task(path.stem, kinds.pop(), tuple(questions))


def _question(line: dict) -> Question:
    requests = tuple(Request(str(context), str(word)) for context, word in line["zero_shot"])
    if not requests or not all(request.continuation for request in requests):
        raise ValueError(
            "zero_shot must hold pairs of a context and a continuation that is not empty"
        )
    if len(requests) == 1:
        return Question(requests, 0)
    label = line["label"]
    if not isinstance(label, int) or not 0 <= label < len(requests):
        raise ValueError(f"label={label!r} must be the index of one of {len(requests)} requests")
    return Question(requests, label)


def _kind(question: Question) -> Kind:
    if len(question.requests) == 1:
        return "word"
    contexts = {request.context for request in question.requests}
    return "choice" if len(contexts) == 1 else "partial"
