"""From likelihoods to the numbers that lm-evaluation-harness reports, with its definitions.

* acc: the right request has the greatest log probability; for a word, every one of its tokens is the likeliest.
* acc_norm: the right choice has the greatest log probability per character of the choice (without the space before it).
* perplexity, of words: exp of the mean negative log probability of a word.
* stderr of an accuracy: sample standard deviation over the root of the number of questions.

At equal scores the first wins, as numpy's argmax has it.
"""

import math
from collections.abc import Sequence

import numpy as np

from experiments.language_modeling.likelihood import Likelihood
from experiments.language_modeling.questions import Question, Task


def score(task: Task, found: Sequence[Sequence[Likelihood]]) -> dict[str, float]:
    """The metrics of a task.

    Args:
      task: its questions.
      found: per question, what the model finds of each request.

    Returns:
      "questions", "acc", "acc_stderr", and, of words, "perplexity"; of others "chance", and of choices "acc_norm",
      "acc_norm_stderr".
    """
    questions = task.questions
    metrics: dict[str, float] = {"questions": len(questions)}
    if task.kind == "word":
        metrics |= _accuracy("acc", [one[0].greedy for one in found])
        return metrics | {
            "perplexity": math.exp(-np.mean([one[0].log_probability for one in found]))
        }
    totals = [np.array([one.log_probability for one in row]) for row in found]
    metrics |= _accuracy("acc", _hits(questions, totals))
    if task.kind == "choice":
        normed = [total / _lengths(q) for q, total in zip(questions, totals, strict=True)]
        metrics |= _accuracy("acc_norm", _hits(questions, normed))
    return metrics | {"chance": float(np.mean([1 / len(q.requests) for q in questions]))}


def _hits(questions: Sequence[Question], scores: Sequence[np.ndarray]) -> list[bool]:
    return [int(s.argmax()) == q.label for q, s in zip(questions, scores, strict=True)]


def _lengths(question: Question) -> np.ndarray:
    return np.array([len(request.continuation.removeprefix(" ")) for request in question.requests])


def _accuracy(name: str, hits: Sequence[bool]) -> dict[str, float]:
    values = np.asarray(hits, np.float64)
    stderr = values.std(ddof=1) / math.sqrt(values.size) if values.size > 1 else 0.0
    return {name: float(values.mean()), f"{name}_stderr": float(stderr)}
