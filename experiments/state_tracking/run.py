"""Trains small models on word problems of groups at lengths up to 32 and tests them to 512 (Theorem 4.1).

    python -m experiments.state_tracking.run

A fixed-depth model of TC0 cannot solve the word problem of A5 or S5 at every length; a memory whose transition is
I - 2 theta k k^T with |k| = 1 reflects along k at theta = 1, and reflections generate these groups. Hence chunk 1 and
a `step_scale` that lets theta reach 1 at a finite logit (Grazzi et al., 2024: negative eigenvalues). "s5_swaps" gives
words in transpositions, one reflection each; where any element is a letter, one needs up to four, so several layers or
a deep memory. The same command continues where it was interrupted; --config.study.max_hours stops it between trials.
"""

from pathlib import Path
from typing import Any

from experiments import command
from experiments.comparison import run_study
from experiments.state_tracking.report import REPORT
from experiments.state_tracking.task import StateTracking, StateTrackingExperiment, make_models


def main(config: StateTrackingExperiment, workdir: Path) -> dict[str, Any]:
    """Runs what is missing and returns the results."""
    tasks = {name: StateTracking(name, config.task) for name in config.groups}
    models = {name: make_models(config, task.vocab_size) for name, task in tasks.items()}
    found = {
        name: run_study(task, models[name], config.study, workdir / name)
        for name, task in tasks.items()
    }
    return {"groups": found}


if __name__ == "__main__":
    command.study(main, REPORT, StateTrackingExperiment, "state_tracking")
