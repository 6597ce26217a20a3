"""Trains memories of one to four layers and measures loss and speed against length: the paper's Fig. 7 and 8, small.

    python -m experiments.memory_depth.run --data_dir=DATA

trains each depth on the books of DATA/text twice over: with the same feed-forward width, so that a deeper memory has
more parameters, and with a width that makes all equally large. Every trained model is tested in windows of several
lengths, shorter and longer than those it was trained in. The same command continues where it was interrupted.
"""

import dataclasses
from pathlib import Path
from typing import Any

from experiments import command
from experiments.comparison import run_study
from experiments.language_modeling.task import with_vocabulary
from experiments.memory_depth.report import REPORT
from experiments.memory_depth.task import LengthTask, MemoryDepthConfig, make_models, speeds

#: Of the study whose models are not of one size: any difference.
ANY_SIZE = 100.0


def main(config: MemoryDepthConfig, workdir: Path, data: Path) -> dict[str, Any]:
    """Runs what is missing and returns the results."""
    task = LengthTask(data, config)
    one_width, one_size = make_models(config, with_vocabulary(config.model, task.tokenizer))
    any_size = dataclasses.replace(config.study, tolerance=ANY_SIZE)
    return {
        "one_size": run_study(task, one_size, config.study, workdir / "one_size"),
        "one_width": run_study(task, one_width, any_size, workdir / "one_width"),
        "speed": speeds(config, one_width, workdir / "speed"),
    }


if __name__ == "__main__":
    command.study(main, REPORT, MemoryDepthConfig, "memory_depth", data=True)
