"""Trains every model on the same books and judges it: the paper's Table 1, small.

    python -m experiments.language_modeling.run --data_dir=DATA

trains the models of experiments/configs/language_modeling.py on DATA/text/train_*.txt, each at the same learning rates
and then with every seed, and scores them on a held-out book, on WikiText and on the questions of DATA/evals. The same
command continues where it was interrupted. --config=experiments/configs/language_modeling.py:340m is the paper's size.
"""

from collections.abc import Sequence
from pathlib import Path

from absl import app, flags

from experiments.comparison import run_study, write_results
from experiments.comparison.command import command_line, define_flags, messages, output_path, parser
from experiments.language_modeling.config import LanguageModelingConfig
from experiments.language_modeling.data_dir import data_dir, define_data_dir
from experiments.language_modeling.models import make_models
from experiments.language_modeling.report import markdown, plot
from experiments.language_modeling.task import LanguageModeling, with_vocabulary
from experiments.training.config import from_config_dict

CONFIG = "experiments/configs/language_modeling.py"


def main(argv: Sequence[str]) -> None:
    """Runs what is missing of the study and writes the results."""
    with messages(argv):
        config = from_config_dict(LanguageModelingConfig, flags.FLAGS.config)
        task = LanguageModeling(data_dir(), config.text, config.questions)
        models = make_models(config.models, with_vocabulary(config.model, task.tokenizer))
        study = run_study(task, models, config.study, Path(flags.FLAGS.workdir))
        results = {"command": command_line("experiments.language_modeling.run"), "study": study}
        write_results(results, output_path(), markdown, plot)


if __name__ == "__main__":
    define_flags("language_modeling")
    define_data_dir()
    app.run(main, flags_parser=parser(CONFIG))
