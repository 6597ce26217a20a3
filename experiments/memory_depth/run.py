"""Trains memories of one to four layers and measures loss and speed against length: the paper's Fig. 7 and 8, small.

    python -m experiments.memory_depth.run --data_dir=DATA

trains each depth on the books of DATA/text twice over: with the same feed-forward width, so that a deeper memory has
more parameters, and with a width that makes all equally large. Every trained model is tested in windows of several
lengths, shorter and longer than those it was trained in. The same command continues where it was interrupted.
"""

import dataclasses
from collections.abc import Sequence
from pathlib import Path

from absl import app, flags

from experiments.comparison import run_study, write_results
from experiments.comparison.command import command_line, define_flags, messages, output_path, parser
from experiments.efficiency.rows import Rows
from experiments.language_modeling.data_dir import data_dir, define_data_dir
from experiments.language_modeling.task import with_vocabulary
from experiments.memory_depth.config import MemoryDepthConfig
from experiments.memory_depth.report import markdown, plot
from experiments.memory_depth.task import LengthTask, make_models, speeds
from experiments.training.config import from_config_dict

CONFIG = "experiments/configs/memory_depth.py"
#: Of the study whose models are not of one size: any difference.
ANY_SIZE = 100.0


def main(argv: Sequence[str]) -> None:
    """Runs what is missing and writes the results."""
    with messages(argv):
        config = from_config_dict(MemoryDepthConfig, flags.FLAGS.config)
        workdir = Path(flags.FLAGS.workdir)
        task = LengthTask(data_dir(), config)
        one_width, one_size = make_models(config, with_vocabulary(config.model, task.tokenizer))
        rows = Rows(workdir, config)
        any_size = dataclasses.replace(config.study, tolerance=ANY_SIZE)
        results = {
            "command": command_line("experiments.memory_depth.run"),
            "one_size": run_study(task, one_size, config.study, workdir / "one_size"),
            "one_width": run_study(task, one_width, any_size, workdir / "one_width"),
            "speed": speeds(config, one_width, rows),
        }
        write_results(results, output_path(), markdown, plot)


if __name__ == "__main__":
    define_flags("memory_depth")
    define_data_dir()
    app.run(main, flags_parser=parser(CONFIG))
