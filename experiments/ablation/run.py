"""Takes the memory's components away one by one, and tries its other settings: the paper's Table 5, small.

    python -m experiments.ablation.run --data_dir=DATA

trains every case of experiments/configs/ablation.py twice over: on the books of DATA/text, for bits per byte, and on
associative recall (recall.py), for what is left after a long distance. The same command continues where it was
interrupted.
"""

import dataclasses
from collections.abc import Sequence
from pathlib import Path

from absl import app, flags

from experiments.ablation.cases import make_cases
from experiments.ablation.config import AblationConfig
from experiments.ablation.recall import VOCABULARY, Recall
from experiments.ablation.report import markdown, plot
from experiments.comparison import run_study, write_results
from experiments.comparison.command import command_line, define_flags, messages, output_path, parser
from experiments.language_modeling.data_dir import data_dir, define_data_dir
from experiments.language_modeling.task import TextTask, with_vocabulary
from experiments.training.config import from_config_dict

CONFIG = "experiments/configs/ablation.py"
DATA = define_data_dir()


def main(argv: Sequence[str]) -> None:
    """Runs what is missing of both studies and writes the results."""
    with messages(argv):
        config = from_config_dict(AblationConfig, flags.FLAGS.config)
        workdir = Path(flags.FLAGS.workdir)
        text = TextTask(data_dir(DATA), config.text)
        models = make_cases(
            config.cases, config.chunks, with_vocabulary(config.model, text.tokenizer)
        )
        base = dataclasses.replace(config.recall_model, vocab_size=VOCABULARY)
        recalling = make_cases(config.cases, config.chunks, base)
        results = {
            "command": command_line("experiments.ablation.run"),
            "text": run_study(text, models, config.study, workdir / "text"),
            "recall": run_study(
                Recall(config.recall), recalling, config.recall_study, workdir / "recall"
            ),
        }
        write_results(results, output_path(), markdown, plot)


if __name__ == "__main__":
    define_flags("ablation")
    app.run(main, flags_parser=parser(CONFIG))
