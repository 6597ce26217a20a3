"""Trains every model on the same books and judges it: the paper's Table 1, small.

    python -m experiments.language_modeling.run --data_dir=DATA

trains the models of experiments/configs/language_modeling.py on DATA/text/train_*.txt, each at the same learning rates
and then with every seed, and scores them on a held-out book, on WikiText and on the questions of DATA/evals. The same
command continues where it was interrupted. --config=experiments/configs/language_modeling.py:340m is the paper's size.
"""

import dataclasses
from pathlib import Path
from typing import Any

from experiments import command
from experiments.comparison import StudyConfig, run_study
from experiments.language_modeling.named_models import make_models
from experiments.language_modeling.report import REPORT
from experiments.language_modeling.task import (
    LanguageModeling,
    QuestionsConfig,
    TextConfig,
    with_vocabulary,
)
from titans_jax import TitansConfig
from titans_jax.fields import (
    check_fields,
    field,
    instance_of,
    several,
    string,
)


@dataclasses.dataclass(frozen=True)
class LanguageModelingConfig:
    """Everything that decides the experiment.

    Attributes:
      models: names, see models.py.
      model: what they share.
      text: see TextConfig.
      questions: see QuestionsConfig.
      study: see StudyConfig.
    """

    models: tuple[str, ...] = field(
        ("lmm", "mac", "mag", "mal", "transformer", "transformer_window"), several(string)
    )
    model: TitansConfig = field(TitansConfig(), instance_of(TitansConfig))
    text: TextConfig = field(TextConfig(), instance_of(TextConfig))
    questions: QuestionsConfig = field(QuestionsConfig(), instance_of(QuestionsConfig))
    study: StudyConfig = field(StudyConfig(), instance_of(StudyConfig))

    def __post_init__(self) -> None:
        check_fields(self)


def main(config: LanguageModelingConfig, workdir: Path, data: Path) -> dict[str, Any]:
    """Runs what is missing of the study and returns the results."""
    task = LanguageModeling(data, config.text, config.questions)
    models = make_models(config.models, with_vocabulary(config.model, task.tokenizer))
    return {"study": run_study(task, models, config.study, workdir)}


if __name__ == "__main__":
    command.study(main, REPORT, LanguageModelingConfig, "language_modeling", data=True)
