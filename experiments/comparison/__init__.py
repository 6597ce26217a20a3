"""The harness of every comparison of models: equal parameters, tokens, optimizer and tuning effort.

A *task* yields training batches and judges a trained model (config.py). A *trial* trains one model at one learning rate
with one seed (trial.py). A *study* (study.py) tries the same candidates for every model with the first seed, takes each
model's best, and trains it with the other seeds:

    from experiments.comparison import StudyConfig, run_study

    models = {"lmm": TitansConfig(...), "transformer": TitansConfig(...)}    # of equal size: else refused
    results = {"command": "python -m ...", "study": run_study(task, models, StudyConfig(steps=500), workdir)}

Whatever takes long is kept in a folder under all that decides it (store.py): a killed study is started again with the
same command, and goes on. `results` is what becomes the results JSON: `write_results(results, output, report)` writes
it, its page (page.py) and its picture (picture.py).
"""

from experiments.comparison.config import StudyConfig, Task
from experiments.comparison.page import Report, write_results
from experiments.comparison.study import run_study

__all__ = ["Report", "StudyConfig", "Task", "run_study", "write_results"]
