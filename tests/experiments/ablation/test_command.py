"""The ablation's command at toy size."""

import json

import pytest

from tests.experiments.test_command_line import command
from tests.experiments.toy_data import SMALL, write_data


@pytest.mark.slow
def test_both_studies_are_run_and_reported(tmp_path):
    data, work = write_data(tmp_path / "data"), tmp_path / "work"
    recall = ("pairs=2", "train_lengths=(16,)", "batch_tokens=32", "test_lengths=(32,)")
    flags = [
        f"--data_dir={data}", f"--workdir={work}", "--config.cases=('base','no persistent memory')",
        "--config.chunks=()", "--config.text.length=32", "--config.text.batch_size=2", *SMALL,
        "--config.study.seeds=(0,)", "--config.model.variant=transformer", "--config.recall_study.steps=2",
        "--config.recall_study.learning_rates=(1e-3,)", *(f"--config.recall.{field}" for field in recall),
    ]  # fmt: skip
    result = command("experiments.ablation.run", *flags)
    assert result.returncode == 0, result.stderr
    results = json.loads((work / "results.json").read_text())
    assert results["text"]["complete"]
    assert results["recall"]["complete"]
    page = (work / "results.md").read_text()
    assert "* no persistent memory: " in page
    assert "points of recall at 32" in page
    assert (work / "results.png").stat().st_size > 5_000
