"""Trains small models on word problems of groups at lengths up to 32 and tests them to 512 (Theorem 4.1).

    python -m experiments.state_tracking.run

A fixed-depth model of TC0 cannot solve the word problem of A5 or S5 at every length; a memory whose transition is
I - 2 theta k k^T with |k| = 1 reflects along k at theta = 1, and reflections generate these groups. Hence chunk 1 and
a `step_scale` that lets theta reach 1 at a finite logit (Grazzi et al., 2024: negative eigenvalues). "s5_swaps" gives
words in transpositions, one reflection each; where any element is a letter, one needs up to four, so several layers or
a deep memory. The same command continues where it was interrupted; --config.study.max_hours stops it between trials.
"""

from collections.abc import Sequence
from pathlib import Path

from absl import app, flags

from experiments.comparison import run_study, write_results
from experiments.comparison.command import command_line, define_flags, messages, output_path, parser
from experiments.state_tracking.config import StateTrackingExperiment, make_models
from experiments.state_tracking.report import markdown, plot
from experiments.state_tracking.task import StateTracking
from experiments.training.config import from_config_dict

CONFIG = "experiments/configs/state_tracking.py"


def main(argv: Sequence[str]) -> None:
    """Runs what is missing and writes the results."""
    with messages(argv):
        config = from_config_dict(StateTrackingExperiment, flags.FLAGS.config)
        tasks = {name: StateTracking(name, config.task) for name in config.groups}
        models = {name: make_models(config, task.vocab_size) for name, task in tasks.items()}
        workdir = Path(flags.FLAGS.workdir)
        results = {
            "command": command_line("experiments.state_tracking.run"),
            "groups": {
                name: run_study(task, models[name], config.study, workdir / name)
                for name, task in tasks.items()
            },
        }
        write_results(results, output_path(), markdown, plot)


if __name__ == "__main__":
    define_flags("state_tracking")
    app.run(main, flags_parser=parser(CONFIG))
