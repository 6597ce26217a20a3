"""Zero-shot questions to a trained model: LAMBADA, PIQA, ARC-easy, WinoGrande, or any file like theirs.

    python -m experiments.language_modeling.evaluate --workdir=runs/mag --data_dir=DATA

reads DATA/evals/*.jsonl (questions.py says of what form) and the newest checkpoint of a run of experiments.train or of
a trial of a comparison, and scores as lm-evaluation-harness does (scoring.py). A model of a size that a CPU trains
answers near chance; "chance" stands beside every accuracy.
"""

import json
from pathlib import Path
from typing import Any

from absl import flags

from experiments import command
from experiments.language_modeling.likelihood import likelihoods
from experiments.language_modeling.questions import Task, find_tasks
from experiments.language_modeling.saved_models import load_model
from experiments.language_modeling.scoring import score
from experiments.training.workdir import versions
from titans_jax import Titans
from titans_jax.data import Tokenizer

#: The folder of the questions under --data_dir.
QUESTIONS = "evals"
COLUMNS = ("acc", "acc_norm", "perplexity", "chance")


def answer(model: Titans, tokenizer: Tokenizer, task: Task) -> dict[str, float]:
    """A model's metrics on a task (scoring.py)."""
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
    define_flags()
    command.run(main)
