"""The training-speed command at toy size, and what its page says."""

import json

import pytest

from experiments.efficiency.comparing import run
from experiments.efficiency.config import EfficiencyConfig
from experiments.efficiency.speed_report import markdown, plot
from titans_jax import preset

SMALL = EfficiencyConfig(
    models=("transformer_window",),
    model=preset("tiny", "transformer", dim=16, num_layers=1, feed_forward=16, window=8),
    vocab_size=50,
    lengths=(16, 32),
    tokens_per_step=64,
    repeats=2,
    tpu_topology="",
)


def test_rows_are_measured_once_and_reported(tmp_path):
    results = run(SMALL, tmp_path)
    rows = results["speed"]
    assert [(row["length"], row["batch_size"]) for row in rows] == [(16, 4), (32, 2)]
    for row in rows:
        # Adam holds the parameters three times.
        assert row["parameters"] < 5000
        assert row["bytes"] > 3 * 4 * row["parameters"]
        assert row["tokens_per_second"] == pytest.approx(sum(64 / s for s in row["seconds"]) / 2)
    assert run(SMALL, tmp_path)["speed"] == rows  # the same seconds: nothing was measured again
    page = markdown(json.loads(json.dumps(results | {"command": "python -m this"})))
    assert f"| transformer_window | {rows[0]['tokens_per_second']:,.0f} ± " in page
    plot(results, tmp_path / "speed.png")
    assert (tmp_path / "speed.png").stat().st_size > 5_000


def test_another_runs_folder_and_lengths_that_do_not_divide_are_refused(tmp_path):
    run(EfficiencyConfig(models=(), tpu_topology=""), tmp_path)
    (tmp_path / "rows.json").write_text(json.dumps({"config": {"models": ["lmm"]}, "rows": {}}))
    with pytest.raises(ValueError, match="another models"):
        run(EfficiencyConfig(models=(), tpu_topology=""), tmp_path)
    with pytest.raises(ValueError, match=r"^lengths must be a divisor of tokens_per_step = "):
        EfficiencyConfig(lengths=(500,))


def test_static_estimates_are_on_the_page():
    fits = {
        "model": "mag", "fits": True, "hbm_bytes_per_chip": 2**30, "hbm_limit": 16 * 2**30, "static_step_seconds": 0.25,
        "tokens_per_second": 4e6, "static_compute_seconds": 0.25, "static_hbm_seconds": 0.1,
        "static_interconnect_seconds": 0.0, "static_network_seconds": 0.0, "wall_seconds": 1.0, "commit": "c" * 40,
    }  # fmt: skip
    speed = {
        "model": "mag", "length": 64, "tokens_per_second": 10.0, "std": 1.0, "bytes": 2**20, "parameters": 5,
        "wall_seconds": 1.0, "machine": "m", "versions": {"jax": "j"}, "commit": "c" * 40,
    }  # fmt: skip
    large = fits | {"model": "mac", "fits": False}
    broken = {"model": "lmm", "failed": "error: no libtpu", "wall_seconds": 0.0, "commit": "c" * 40}
    config = {
        "tokens_per_step": 64, "repeats": 1, "tpu_preset": "400m", "tpu_topology": "v5e:2x2",
        "model": {"dtype": "float32"},
    }  # fmt: skip
    page = markdown(
        {"command": "c", "config": config, "speed": [speed], "tpu": [fits, large, broken]}
    )
    assert "| mag | 1.00 of 16 | 0.2500 | 4,000,000 | compute |" in page
    assert "| mac | 1.00 of 16: too large |" in page
    assert "| lmm | error: no libtpu |" in page
