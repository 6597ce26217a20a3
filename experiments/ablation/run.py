"""Takes the memory's components away one by one, and tries its other settings: the paper's Table 5, small.

    python -m experiments.ablation.run --data_dir=DATA

trains the cases of experiments/configs/ablation.py three times over: on the books of DATA/text, for bits per byte; on
the needles of experiments/needle_in_a_haystack, for what is left after a long distance; and on streams, for what a
memory is worth that has read two million bytes. The same command continues where it was interrupted.
"""

from collections.abc import Sequence
from pathlib import Path

from absl import app, flags

from experiments.ablation.cases import make_cases
from experiments.ablation.config import AblationConfig
from experiments.ablation.report import markdown, plot
from experiments.ablation.streams import Streams
from experiments.comparison import run_study, write_results
from experiments.comparison.command import command_line, define_flags, messages, output_path, parser
from experiments.language_modeling.data_dir import data_dir, define_data_dir
from experiments.language_modeling.task import TextTask, with_vocabulary
from experiments.needle_in_a_haystack.task import Needles
from experiments.training.config import from_config_dict
from titans_jax.data import load_tokenizer

CONFIG = "experiments/configs/ablation.py"


def main(argv: Sequence[str]) -> None:
    """Runs what is missing of the studies and writes the results."""
    with messages(argv):
        config = from_config_dict(AblationConfig, flags.FLAGS.config)
        workdir = Path(flags.FLAGS.workdir)
        data = data_dir()
        text, needles = TextTask(data, config.text), Needles(data, config.needles)
        tokenizer = load_tokenizer(config.streams.tokenizer)
        streams = Streams(data, config.streams, tokenizer) if config.stream_cases else None
        reader = with_vocabulary(config.model, text.tokenizer)
        finder = with_vocabulary(config.needles.model, needles.tokenizer)
        reading = make_cases(config.cases, config.chunks, reader)
        finding = make_cases(
            config.needle_cases, config.needle_chunks, finder, "config.needle_cases"
        )
        carrier = with_vocabulary(config.streams.model, tokenizer)
        carrying = make_cases(config.stream_cases, (), carrier, "config.stream_cases")
        results = {
            "command": command_line("experiments.ablation.run"),
            "text": run_study(text, reading, config.study, workdir / "text"),
            "needles": run_study(needles, finding, config.needles.study, workdir / "needles"),
            "streams": None if streams is None else streams.run(carrying, workdir / "streams"),
        }
        write_results(results, output_path(), markdown, plot)


if __name__ == "__main__":
    define_flags("ablation")
    define_data_dir()
    app.run(main, flags_parser=parser(CONFIG))
