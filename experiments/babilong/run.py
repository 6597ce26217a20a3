"""Trains small models to find a story's facts in prose, and asks them in ever longer prose: the paper's Fig. 6, small.

    python -m experiments.babilong.run --data_dir=DATA

trains on the stories of DATA/babi, hidden in the books of DATA/text at short lengths, and asks at lengths up to 16K
tokens with prose that training has not seen; then lets the models of `config.stream_models` read up to a million tokens
as streams. The same command continues where it was interrupted.
"""

from pathlib import Path
from typing import Any

from experiments import command
from experiments.babilong.report import REPORT
from experiments.babilong.streams import stream_rows
from experiments.babilong.task import Babilong, BabilongConfig
from experiments.comparison import run_study
from experiments.language_modeling.named_models import make_models
from experiments.language_modeling.task import with_vocabulary


def main(config: BabilongConfig, workdir: Path, data: Path) -> dict[str, Any]:
    """Runs what is missing and returns the results."""
    task = Babilong(data, config, workdir)
    models = make_models(config.models, with_vocabulary(config.model, task.tokenizer))
    study = run_study(task, models, config.study, workdir)
    return {"study": study, "streams": stream_rows(study, task, models, config, workdir)}


if __name__ == "__main__":
    command.study(main, REPORT, BabilongConfig, "babilong", data=True)
