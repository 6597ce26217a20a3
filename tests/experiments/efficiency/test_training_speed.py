"""The training-speed command at toy size, and what its page says."""

import dataclasses
import json

import pytest

from experiments.comparison.page import page
from experiments.comparison.store import read_record
from experiments.efficiency.report import REPORT
from experiments.efficiency.run import EfficiencyConfig, main
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
    results = main(SMALL, tmp_path)
    rows = results["speed"]["rows"]
    assert [(row["length"], row["batch_size"]) for row in rows] == [(16, 4), (32, 2)]
    for row in rows:
        record = read_record(tmp_path / "transformer_window" / f"length_{row['length']}")
        # Adam holds the parameters three times.
        assert row["parameters"] < 5000
        assert row["bytes"] > 3 * 4 * row["parameters"]
        assert row["tokens_per_second"] == pytest.approx(sum(64 / s for s in record["timed"]) / 2)
    assert main(SMALL, tmp_path)["speed"] == results["speed"]  # nothing was measured again
    results = json.loads(json.dumps(results | {"command": "python -m this"}))
    text = page(results, "speed", REPORT)
    assert f"| Transformer++, window | {rows[0]['tokens_per_second']:,.0f} ± " in text
    assert REPORT.figure(results) is not None


def test_another_measurement_and_lengths_that_do_not_divide_are_refused(tmp_path):
    main(SMALL, tmp_path)
    with pytest.raises(ValueError, match=r"another result:\n  repeats: 2 there, 3 given"):
        main(dataclasses.replace(SMALL, repeats=3), tmp_path)
    with pytest.raises(ValueError, match=r"^lengths must be a divisor of tokens_per_step = "):
        EfficiencyConfig(lengths=(500,))


def test_static_estimates_are_on_the_page():
    fits = {
        "model": "mag", "fits": True, "hbm_bytes_per_chip": 2**30, "hbm_limit": 16 * 2**30, "static_step_seconds": 0.25,
        "tokens_per_second": 4e6, "static_compute_seconds": 0.25, "static_hbm_seconds": 0.1,
        "static_interconnect_seconds": 0.0, "static_network_seconds": 0.0,
    }  # fmt: skip
    origin = {
        "trials": 1, "seconds": 1.0, "cpu_seconds": None, "machines": ["m"], "jax": ["j"], "flax": ["f"],
        "commits": ["c" * 40], "errors": [],
    }  # fmt: skip
    speed = {
        "model": "mag", "length": 64, "tokens_per_second": 10.0, "std": 1.0, "bytes": 2**20, "parameters": 5,
    }  # fmt: skip
    large = fits | {"model": "mac", "fits": False}
    broken = {"model": "lmm", "failed": "error: no libtpu"}
    config = {
        "tokens_per_step": 64, "repeats": 1, "tpu_preset": "400m", "tpu_topology": "v5e:2x2", "dtype": "float32",
    }  # fmt: skip
    results = {
        "command": "c",
        "config": config,
        "speed": {"origin": origin, "rows": [speed]},
        "tpu": {"origin": origin, "rows": [fits, large, broken]},
    }
    text = page(results, "results", REPORT)
    assert "| MAG | 1.00 of 16 | 0.2500 | 4,000,000 | compute |" in text
    assert "| MAC | 1.00 of 16: too large |" in text
    assert "| LMM | error: no libtpu |" in text
