"""Training speed of every model against sequence length, and what the compiler expects of a TPU: the paper's Fig. 9.

    python -m experiments.efficiency.run

times the training step of models of equal size at equal tokens per step (length x batch), with the memory it needs, on
this machine; then compiles the step of a preset of the paper's size for TPUs that are absent, and reports the static
estimate. It needs no data. Every finished row is kept in the workdir, and the same command continues.
"""

from collections.abc import Sequence
from pathlib import Path

from absl import app, flags

from experiments.comparison import write_results
from experiments.comparison.command import command_line, define_flags, messages, output_path, parser
from experiments.efficiency.comparing import run
from experiments.efficiency.config import EfficiencyConfig
from experiments.efficiency.speed_report import markdown, plot
from experiments.training.config import from_config_dict

CONFIG = "experiments/configs/efficiency.py"


def main(argv: Sequence[str]) -> None:
    """Measures and writes the results."""
    with messages(argv):
        config = from_config_dict(EfficiencyConfig, flags.FLAGS.config)
        results = run(config, Path(flags.FLAGS.workdir))
        results["command"] = command_line("experiments.efficiency.run")
        write_results(results, output_path(), markdown, plot)


if __name__ == "__main__":
    define_flags("efficiency")
    app.run(main, flags_parser=parser(CONFIG))
