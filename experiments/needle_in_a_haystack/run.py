"""Trains small models to find RULER's needles at up to 1K tokens and tests them to 16K: the paper's Table 2, small.

    python -m experiments.needle_in_a_haystack.run --data_dir=DATA

Haystacks are RULER's noise and the books of DATA/text; those of tests are not trained on. The same command continues
where it was interrupted.
"""

from collections.abc import Sequence
from pathlib import Path

from absl import app, flags

from experiments.comparison import run_study, write_results
from experiments.comparison.command import command_line, define_flags, messages, output_path, parser
from experiments.language_modeling.data_dir import data_dir, define_data_dir
from experiments.language_modeling.models import make_models
from experiments.language_modeling.task import with_vocabulary
from experiments.needle_in_a_haystack.config import NeedleConfig
from experiments.needle_in_a_haystack.report import markdown, plot
from experiments.needle_in_a_haystack.task import Needles
from experiments.training.config import from_config_dict

CONFIG = "experiments/configs/needle_in_a_haystack.py"


def main(argv: Sequence[str]) -> None:
    """Runs what is missing and writes the results."""
    with messages(argv):
        config = from_config_dict(NeedleConfig, flags.FLAGS.config)
        task = Needles(data_dir(), config)
        models = make_models(config.models, with_vocabulary(config.model, task.tokenizer))
        results = {
            "command": command_line("experiments.needle_in_a_haystack.run"),
            "study": run_study(task, models, config.study, Path(flags.FLAGS.workdir)),
        }
        write_results(results, output_path(), markdown, plot)


if __name__ == "__main__":
    define_flags("needle_in_a_haystack")
    define_data_dir()
    app.run(main, flags_parser=parser(CONFIG))
