"""Trains small models to find a story's facts in prose, and asks them in ever longer prose: the paper's Fig. 6, small.

    python -m experiments.babilong.run --data_dir=DATA

trains on the stories of DATA/babi, hidden in the books of DATA/text at short lengths, and asks at lengths up to 16K
tokens with prose that training has not seen; then lets the models of `config.stream_models` read up to a million tokens
as streams. The same command continues where it was interrupted.
"""

from collections.abc import Sequence
from pathlib import Path

from absl import app, flags

from experiments.babilong.config import BabilongConfig
from experiments.babilong.report import markdown, plot
from experiments.babilong.streams import stream_rows
from experiments.babilong.task import Babilong
from experiments.comparison import run_study, write_results
from experiments.comparison.command import command_line, define_flags, messages, output_path, parser
from experiments.language_modeling.data_dir import data_dir, define_data_dir
from experiments.language_modeling.models import make_models
from experiments.language_modeling.task import with_vocabulary
from experiments.training.config import from_config_dict

CONFIG = "experiments/configs/babilong.py"


def main(argv: Sequence[str]) -> None:
    """Runs what is missing and writes the results."""
    with messages(argv):
        config = from_config_dict(BabilongConfig, flags.FLAGS.config)
        workdir = Path(flags.FLAGS.workdir)
        task = Babilong(data_dir(), config, workdir)
        models = make_models(config.models, with_vocabulary(config.model, task.tokenizer))
        study = run_study(task, models, config.study, workdir)
        results = {
            "command": command_line("experiments.babilong.run"),
            "study": study,
            "streams": stream_rows(study, task, models, config, workdir),
        }
        write_results(results, output_path(), markdown, plot)


if __name__ == "__main__":
    define_flags("babilong")
    define_data_dir()
    app.run(main, flags_parser=parser(CONFIG))
