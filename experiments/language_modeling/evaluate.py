"""Zero-shot questions to a trained model: LAMBADA, PIQA, ARC-easy, WinoGrande, or any file like theirs.

    python -m experiments.language_modeling.evaluate --workdir=runs/mag --data_dir=DATA

reads DATA/evals/*.jsonl (questions.py says of what form) and the newest checkpoint of a run of experiments.train or of
a trial of a comparison, and scores as lm-evaluation-harness does (`score`). A model of a size that a CPU trains
answers near chance; "chance" stands beside every accuracy.
"""

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from absl import flags

from experiments import command
from experiments.language_modeling.likelihood import Likelihood, likelihoods
from experiments.language_modeling.questions import Question, Task, find_tasks
from experiments.language_modeling.saved_models import load_model
from experiments.training.workdir import versions
from titans_jax import Titans
from titans_jax.data import Tokenizer


def score(task: Task, found: Sequence[Sequence[Likelihood]]) -> dict[str, float]:
    """The metrics of a task, by the definitions of lm-evaluation-harness.

    * acc: the right request has the greatest log probability; for a word, every one of its tokens is the likeliest.
    * acc_norm: the right choice has the greatest log probability per character (without the space before it).
    * perplexity, of words: exp of the mean negative log probability of a word.
    * stderr of an accuracy: sample standard deviation over the root of the number of questions.

    At equal scores the first wins, as numpy's argmax has it.

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


#: The folder of the questions under --data_dir.
QUESTIONS = "evals"
COLUMNS = ("acc", "acc_norm", "perplexity", "chance")


def answer(model: Titans, tokenizer: Tokenizer, task: Task) -> dict[str, float]:
    """A model's metrics on a task (`score`)."""
    requests = [request for question in task.questions for request in question.requests]
    found = iter(likelihoods(model, tokenizer, requests))
    return score(task, [[next(found) for _ in question.requests] for question in task.questions])


def line(name: str, metrics: dict[str, float]) -> str:
    """A task's metrics as a line of the printed table."""
    cells = []
    for column in COLUMNS:
        cell = f"{metrics[column]:.4g}" if column in metrics else ""
        if f"{column}_stderr" in metrics:
            cell = f"{metrics[column]:.3f} ±{metrics[f'{column}_stderr']:.3f}"
        cells.append(f"{cell:>14}")
    return f"{name:<28}{int(metrics['questions']):>9,}{''.join(cells)}"


def main() -> None:
    """Reads the questions, loads the model, scores task by task."""
    given: Any = flags.FLAGS
    tasks = find_tasks(command.data_dir() / QUESTIONS, given.tasks, given.limit)
    trained = load_model(Path(given.workdir), given.tokenizer)
    variant = trained.model.config.variant
    print(f"{variant} after {trained.steps} steps\n{'task':<28}{'questions':>9}", end="")
    print("".join(f"{column:>14}" for column in COLUMNS), flush=True)
    results = {}
    for task in tasks:
        results[task.name] = answer(trained.model, trained.tokenizer, task)
        print(line(task.name, results[task.name]), flush=True)
    if given.json:
        written = {
            "workdir": given.workdir,
            "variant": variant,
            "steps": trained.steps,
            "versions": versions(),
            "tasks": results,
        }
        Path(given.json).write_text(json.dumps(written, indent=1) + "\n", encoding="utf-8")


def define_flags() -> None:
    """The command's flags; not at import, because other programs use `answer` with flags of their own."""
    flags.DEFINE_string("workdir", None, "the run whose model answers", required=True)
    command.define_data_dir()
    flags.DEFINE_list("tasks", [], "beginnings of the files' names; all files if none is given")
    flags.DEFINE_integer("limit", 0, "questions of each task; 0 = all", lower_bound=0)
    flags.DEFINE_string("tokenizer", None, "where the run's tokenizer file is now, if it has moved")
    flags.DEFINE_string("json", None, "also write the numbers to this file")


if __name__ == "__main__":
    command.run(main, define_flags)
