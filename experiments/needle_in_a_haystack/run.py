"""Trains small models to find RULER's needles at up to 1K tokens and tests them to 16K: the paper's Table 2, small.

    python -m experiments.needle_in_a_haystack.run --data_dir=DATA

Haystacks are RULER's noise and the books of DATA/text; those of tests are not trained on. The same command continues
where it was interrupted.
"""

from pathlib import Path
from typing import Any

from experiments import command
from experiments.comparison import run_study
from experiments.language_modeling.named_models import make_models
from experiments.language_modeling.task import with_vocabulary
from experiments.needle_in_a_haystack.report import REPORT
from experiments.needle_in_a_haystack.task import NeedleConfig, Needles


def main(config: NeedleConfig, workdir: Path, data: Path) -> dict[str, Any]:
    """Runs what is missing and returns the results."""
    task = Needles(data, config)
    models = make_models(config.models, with_vocabulary(config.model, task.tokenizer))
    return {"study": run_study(task, models, config.study, workdir)}


if __name__ == "__main__":
    command.study(main, REPORT, NeedleConfig, "needle_in_a_haystack", data=True)
