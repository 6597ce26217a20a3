"""The harness of every comparison of models: equal parameters, tokens, optimizer and tuning effort.

A *task* yields training batches and judges a trained model (task.py). A *trial* trains one model at one learning rate
with one seed, in a folder of its own, and leaves a record (trial.py). A *study* (study.py) tries the same rates for
every model with the first seed, takes each model's best, and trains it with the other seeds:

    from experiments.comparison import StudyConfig, run_study

    models = {"lmm": TitansConfig(...), "transformer": TitansConfig(...)}    # of equal size: else refused
    results = {"command": "python -m ...", "study": run_study(task, models, StudyConfig(steps=500), workdir)}

A killed study is started again with the same command: finished trials are read, the running one goes on from its
checkpoint. `results` is what becomes the results JSON: `write_results(results, output, markdown, plot)` writes the
three files of an experiment, whose page and picture are made of `experiments.comparison.report`'s tables. An
experiment's command uses `experiments.comparison.command`.
"""

from experiments.comparison.config import StudyConfig
from experiments.comparison.report import write_results
from experiments.comparison.study import run_study
from experiments.comparison.task import Task

__all__ = ["StudyConfig", "Task", "run_study", "write_results"]
