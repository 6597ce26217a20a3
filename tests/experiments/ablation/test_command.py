"""The ablation's command at toy size."""

import json

import pytest

from tests.experiments.test_command_line import command
from tests.experiments.toy_data import SMALL, write_data


@pytest.mark.slow
def test_all_three_studies_are_run_and_reported(tmp_path):
    data, work = write_data(tmp_path / "data"), tmp_path / "work"
    needles = (
        "tasks=('single_1',)", "bare_steps=1", "bare_lengths=(256,)", "train_lengths=(512,)", "batch_tokens=512",
        "selection_length=640", "test_lengths=(512,)", "test_samples=2", "study.steps=2", "study.seeds=(0,)",
        "study.learning_rates=(1e-3,)", "model.dim=8", "model.num_layers=1", "model.feed_forward=16",
        "model.variant=transformer", "model.window=128",
    )  # fmt: skip
    streams = (
        "length=32", "batch_size=1", "steps=2", "tokens=1024", "held_out=0.3", "seeds=(0,)", "model.dim=8",
        "model.num_layers=1", "model.feed_forward=16", "model.memory.chunk=16",
    )  # fmt: skip
    flags = [
        f"--data_dir={data}", f"--workdir={work}", "--config.cases=('base','no persistent memory')",
        "--config.chunks=()", "--config.text.length=32", "--config.text.batch_size=2", *SMALL,
        "--config.study.seeds=(0,)", "--config.model.variant=transformer",
        "--config.needle_cases=('base','no persistent memory')", "--config.needle_chunks=()",
        *(f"--config.needles.{field}" for field in needles),
        "--config.stream_cases=('base','no persistent memory')",
        *(f"--config.streams.{field}" for field in streams),
    ]  # fmt: skip
    result = command("experiments.ablation.run", *flags)
    assert result.returncode == 0, result.stderr
    results = json.loads((work / "results.json").read_text())
    assert results["text"]["complete"]
    assert results["needles"]["complete"]
    assert results["streams"]["complete"]
    page = (work / "results.md").read_text()
    assert "* no persistent memory: " in page
    assert "points of a number in noise at 512" in page
    assert "bits per byte of the stream to 1024" in page
    assert (work / "results.png").stat().st_size > 5_000
