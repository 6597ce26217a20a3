"""The comparison's command at toy size: chosen on validation, recorded, continued."""

import json

import numpy as np
import pytest

from experiments.time_series import report, run
from experiments.time_series.recipes import MODELS
from tests.titans_jax.forecasting.tables import small_table
from titans_jax.forecasting.training import Errors


@pytest.fixture
def flags(tmp_path):
    small_table(400).to_csv(tmp_path / "own.csv", index=False)
    return ["--dataset=own.csv", f"--data_dir={tmp_path}", "--horizons=2", "--seeds=0,1", "--epochs=1",
            f"--output={tmp_path}"]  # fmt: skip


def records(tmp_path):
    return json.loads((tmp_path / "own.json").read_text())


def test_the_command_trains_chooses_tests_and_goes_on(flags, tmp_path, monkeypatch):
    monkeypatch.setitem(MODELS, "LMM", MODELS["LMM"][:1])
    run.main([*flags, "--models=RLinear,LMM"])
    content = records(tmp_path)
    assert content["command"].startswith(
        "python -m experiments.time_series.run --dataset=own.csv --data_dir=DIR "
    )
    linear = [r for r in content["runs"] if r["model"] == "RLinear"]
    valid = {r["candidate"]: sum(r["valid"].values()) for r in linear if r["seed"] == 0}
    best = min(valid, key=valid.get)
    assert len(valid) == 2
    assert sorted((r["candidate"], r["seed"]) for r in linear if "test" in r) == [
        (best, 0),
        (best, 1),
    ]
    memory = [r for r in content["runs"] if r["model"] == "LMM"]
    assert [r["seed"] for r in memory] == [0, 1]
    for record in memory:
        assert 0 < record["test"]["mae"] < 2
        assert record["epochs"] == 1
        assert record["cpu_seconds"] > 0
        assert {"commit", "machine", "versions"} <= set(record)
    page = (tmp_path / "own.md").read_text()
    assert (
        f"| RLinear | {np.mean([r['test']['mse'] for r in linear if 'test' in r]):.3f} ± " in page
    )

    # Nothing is trained twice; a record that is missing is made again, the same.
    kept = [r for r in content["runs"] if not (r["model"] == "RLinear" and r["seed"] == 1)]
    (tmp_path / "own.json").write_text(json.dumps({**content, "runs": kept}))
    run.main([*flags, "--models=RLinear,LMM"])
    again = records(tmp_path)["runs"]
    for record in kept:
        assert record in again
    both = [
        next(r for r in runs if r["model"] == "RLinear" and r["seed"] == 1)
        for runs in (linear, again)
    ]
    assert both[0]["test"] == both[1]["test"]


def test_validation_chooses_and_the_test_part_does_not(flags, tmp_path, monkeypatch):
    """Of two candidates the one that validation prefers is tested, though the other would be better there."""
    scores = {"rate 0.001": 0.1, "rate 0.005": 0.2}

    def trained(data, horizon, candidate, seed, epochs):
        score = scores[candidate.name]
        return candidate.name, {
            "horizon": horizon, "candidate": candidate.name, "seed": seed,
            "valid": {"mse": score, "mae": score}, "cpu_seconds": 1.0,
        }  # fmt: skip

    monkeypatch.setattr(run, "train_candidate", trained)
    monkeypatch.setattr(
        run,
        "errors_on_test",
        lambda data, horizon, candidate, model: {"mse": -scores[model], "mae": 0.0},
    )
    run.main([*flags, "--models=DLinear"])
    tested = [(r["candidate"], r["test"]["mse"]) for r in records(tmp_path)["runs"] if "test" in r]
    assert tested == [("rate 0.001", -0.1)] * 2


def test_test_errors_are_of_the_test_part(tmp_path, monkeypatch):
    seen = {}
    monkeypatch.setattr(
        run,
        "evaluate",
        lambda model, series, phase, starts, **k: seen.update(starts=starts) or Errors(0.0, 0.0),
    )
    small_table(400).to_csv(tmp_path / "own.csv", index=False)
    data = run.load_dataset("own.csv", tmp_path)
    run.errors_on_test(data, 2, MODELS["LMM"][0], None)
    np.testing.assert_array_equal(seen["starts"], np.arange(320 - 96, 400 - 96 - 2 + 1))


def test_the_table_means_over_horizons_and_seeds():
    def content(*horizons):
        runs = [
            {
                "model": "LMM", "horizon": horizon, "candidate": "patches", "seed": seed, "commit": "a", "machine": "m",
                "cpu_seconds": 450.0, "test": {"mse": horizon / 100 + seed / 10, "mae": 0.5},
            }
            for horizon in horizons
            for seed in (0, 2)
        ]  # fmt: skip
        return {"dataset": "ETTh1", "command": "c", "runs": runs}

    page = report.markdown(content(96, 192))
    row = "| LMM | 1.060 ± 0.141 / 0.500 ± 0.000 (patches) | 2.020 ± 0.141 / 0.500 ± 0.000 (patches) | 1.540 ± 0.141"
    assert row in page
    assert "0.420" not in page  # the paper's mean is of four horizons
    page = report.markdown(content(96, 192, 336, 720))
    assert "| 3.460 ± 0.141 / 0.500 ± 0.000 | 0.420 / 0.421 |" in page
    assert "8 trainings, 1.00 CPU-hours" in page


def test_the_summary_counts_seeds_that_have_every_horizon(tmp_path):
    def runs(horizons, seed):
        return [
            {"model": "RLinear", "horizon": h, "seed": seed, "test": {"mse": 0.1 * seed + h / 1e3, "mae": 0.3}}
            for h in horizons
        ]  # fmt: skip

    content = {"dataset": "Weather", "runs": [*runs((96, 192, 336, 720), 1), *runs((96, 192), 2)]}
    (tmp_path / "Weather.json").write_text(json.dumps(content))
    report.main([f"--output={tmp_path}"])
    page = (tmp_path / "summary.md").read_text()
    assert "| MSE / MAE, mean over horizons | Weather here | Weather paper |" in page
    assert "| RLinear | 0.436 / 0.300 (1) | 0.272 / 0.291 |" in page


@pytest.mark.parametrize(
    ("flag", "said"),
    [
        ("--models=GPT", "--models: 'GPT' is not one of DLinear"),
        ("--horizons=0", "--horizons=0: must be integers from 1 on"),
        ("--seeds=x", "--seeds=x: must be integers from 0 on"),
        ("--epochs=0", "--epochs=0: must be a positive integer"),
    ],
)
def test_refused_flags(flags, flag, said, capsys):
    with pytest.raises(SystemExit):
        run.main([*flags, flag])
    assert said in capsys.readouterr().err


def test_a_series_that_is_too_short_is_refused_before_any_training(flags):
    with pytest.raises(
        SystemExit, match=r"the valid part has 40 rows, but .* a horizon of 50 need at least 50"
    ):
        run.main([*flags, "--horizons=2,50"])
