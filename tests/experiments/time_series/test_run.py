"""The comparison at toy size: chosen on validation, kept under all that decides it, continued."""

import dataclasses
import json

import numpy as np
import pytest

from experiments.comparison.page import page
from experiments.comparison.store import read_record
from experiments.time_series import report, run
from experiments.time_series.recipes import MODELS
from experiments.time_series.run import ForecastingConfig, Trainer
from tests.experiments.test_command_line import command
from tests.titans_jax.forecasting.tables import small_table
from titans_jax.forecasting.training import Errors


@pytest.fixture
def folder(tmp_path):
    small_table(400).to_csv(tmp_path / "own.csv", index=False)
    return tmp_path


def config(**fields):
    small = {"dataset": "own.csv", "horizons": (2,), "seeds": (0, 1), "epochs": 1}
    return ForecastingConfig(**(small | fields))


def test_it_trains_chooses_tests_and_goes_on(folder, monkeypatch):
    monkeypatch.setitem(MODELS, "LMM", MODELS["LMM"][:1])
    asked, work = config(models=("RLinear", "LMM")), folder / "work"
    results = run.main(asked, work, folder)
    assert results["name"] == "own"
    study = results["horizons"]["2"]
    linear, memory = study["models"]["RLinear"], study["models"]["LMM"]
    assert set(linear["sweep"]) == {"rate 0.001", "rate 0.005"}
    assert linear["best"] == min(linear["sweep"], key=linear["sweep"].get)
    assert linear["seeds"] == memory["seeds"] == [0, 1]
    for judged in memory["results"]:
        assert 0 < judged["test"]["mae"] < 2
        assert judged["selection"] == sum(judged["valid"].values())
    trial = work / "own.csv" / "LMM" / "horizon_2" / "patches" / "seed_1"
    record = read_record(trial)
    assert record["epochs"] == 1
    assert record["cpu_seconds"] > 0
    assert {"commit", "machine", "versions"} <= set(record)
    text = page({"command": "c", **results}, "own", report.REPORT)
    mse = np.mean([judged["test"]["mse"] for judged in linear["results"]])
    assert f"| RLinear | {mse:.3f} ± " in text
    assert report.REPORT.figure(results) is not None

    # Nothing is trained twice; a record that is missing is made again, the same.
    (trial / "record.json").unlink()
    linear_trial = work / "own.csv" / "RLinear" / "horizon_2" / "rate_0.001" / "seed_0"
    before = (linear_trial / "record.json").read_bytes()
    again = run.main(asked, work, folder)
    assert (linear_trial / "record.json").read_bytes() == before
    for name, found in again["horizons"]["2"]["models"].items():
        assert found["results"] == study["models"][name]["results"]

    # What a quick trial left is not what a long one would have found.
    with pytest.raises(ValueError, match=r"another result:\n  training\.epochs: 1 there, 10 given"):
        run.main(dataclasses.replace(asked, epochs=0), work, folder)
    small_table(399).to_csv(folder / "own.csv", index=False)
    with pytest.raises(ValueError, match=r"  sha256: "):
        run.main(asked, work, folder)


def test_validation_chooses_and_the_test_part_does_not(folder, monkeypatch):
    """Of two candidates the one that validation prefers is shown, though the other would be better in the test."""
    scores = {"rate 0.001": 0.1, "rate 0.005": 0.2}

    def trained(self, candidate, seed):
        score = scores[candidate.name]
        return candidate.name, {"parameters": 1, "valid": {"mse": score, "mae": score}}

    monkeypatch.setattr(Trainer, "train", trained)
    monkeypatch.setattr(
        Trainer, "test", lambda self, candidate, model: {"mse": -scores[model], "mae": 0.0}
    )
    results = run.main(config(models=("DLinear",)), folder / "work", folder)
    found = results["horizons"]["2"]["models"]["DLinear"]
    assert found["best"] == "rate 0.001"
    assert [judged["test"]["mse"] for judged in found["results"]] == [-0.1, -0.1]


def test_test_errors_are_of_the_test_part(folder, monkeypatch):
    seen = {}
    monkeypatch.setattr(
        run,
        "evaluate",
        lambda model, series, phase, starts, **k: seen.update(starts=starts) or Errors(0.0, 0.0),
    )
    trainer = Trainer(run.load_dataset("own.csv", folder), 2)
    trainer.test(MODELS["LMM"][0], None)
    np.testing.assert_array_equal(seen["starts"], np.arange(320 - 96, 400 - 96 - 2 + 1))


def test_every_candidate_says_all_that_decides_it(folder):
    trainer = Trainer(run.load_dataset("own.csv", folder), 2)
    keys = [
        json.dumps(trainer.key(candidate, 0), sort_keys=True)
        for candidates in MODELS.values()
        for candidate in candidates
    ]
    assert len(set(keys)) == len(keys)
    assert trainer.key(MODELS["LMM"][0], 0)["fields"] == {"mixer": "lmm", "frozen": False}
    shorter = Trainer(trainer.data, 2, epochs=1)
    assert shorter.key(MODELS["LMM"][0], 0) != trainer.key(MODELS["LMM"][0], 0)


def results_of(dataset, *horizons, seeds=(0, 2)):
    def study(horizon):
        judged = [
            {"test": {"mse": horizon / 100 + seed / 10, "mae": 0.5}, "selection": 1.0}
            for seed in seeds
        ]
        model = {"best": "patches", "seeds": list(seeds), "results": judged, "sweep": {}}
        origin = {
            "trials": len(seeds), "seconds": None, "cpu_seconds": 900.0, "machines": ["m"], "jax": ["j"],
            "flax": ["f"], "commits": ["a"], "errors": [],
        }  # fmt: skip
        return {"origin": origin, "complete": True, "models": {"LMM": model}}

    horizons = {str(horizon): study(horizon) for horizon in horizons}
    return {"dataset": dataset, "command": "c", "horizons": horizons}


def test_the_table_means_over_horizons_and_seeds():
    text = page(results_of("ETTh1", 96, 192), "x", report.REPORT)
    row = "| LMM | 1.060 ± 0.141 / 0.500 ± 0.000 (patches) | 2.020 ± 0.141 / 0.500 ± 0.000 (patches) | 1.540 ± 0.141"
    assert row in text
    assert "0.420" not in text  # the paper's mean is of four horizons
    text = page(results_of("ETTh1", 96, 192, 336, 720), "x", report.REPORT)
    assert "| 3.460 ± 0.141 / 0.500 ± 0.000 | 0.420 / 0.421 |" in text
    assert "1.00 CPU-hours in 8 trials" in text


def test_the_summary_counts_seeds_that_have_every_horizon(tmp_path):
    results = results_of("Weather", 96, 192, 336, 720, seeds=(1, 2))
    for horizon in ("336", "720"):  # without the second seed
        model = results["horizons"][horizon]["models"]["LMM"]
        model["seeds"], model["results"] = model["seeds"][:1], model["results"][:1]
    (tmp_path / "Weather.json").write_text(json.dumps(results))
    report.write_summary(tmp_path)
    text = (tmp_path / "summary.md").read_text()
    assert "| MSE / MAE, mean over horizons | Weather here | Weather paper |" in text
    assert "| LMM | 3.460 / 0.500 (1) | 0.231 / 0.265 |" in text


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"models": ("GPT",)}, r"models must be one of \('DLinear'.*got 'GPT'"),
        ({"horizons": (0,)}, r"horizons must be a positive integer, got 0"),
        ({"seeds": (-1,)}, "seeds must be an integer from 0 to"),
        ({"epochs": -1}, "epochs must be an integer"),
        ({"dataset": ""}, "dataset must be a string that is not empty"),
    ],
)
def test_refused_flags(fields, said):
    with pytest.raises(ValueError, match=said):
        config(**fields)


def test_a_series_that_is_too_short_is_refused_before_any_training(folder, monkeypatch):
    monkeypatch.setattr(run, "compare", lambda *_, **__: pytest.fail("trained"))
    with pytest.raises(
        ValueError, match=r"the valid part has 40 rows, but .* a horizon of 50 need at least 50"
    ):
        run.main(config(horizons=(2, 50)), folder / "work", folder)


@pytest.mark.slow
def test_the_command_writes_to_its_workdir(folder):
    flags = ["--dataset=own.csv", f"--data_dir={folder}", f"--workdir={folder / 'work'}", "--horizons=2",
             "--seeds=0", "--epochs=1", "--models=DLinear"]  # fmt: skip
    done = command("experiments.time_series.run", *flags)
    assert done.returncode == 0, done.stderr
    results = json.loads((folder / "work" / "own.json").read_text())
    assert results["command"].endswith(
        "python -m experiments.time_series.run --dataset=own.csv --data_dir=DIR --horizons=2 --seeds=0 --epochs=1 "
        "--models=DLinear"
    )
    assert (folder / "work" / "own.png").stat().st_size > 5000
    refused = command("experiments.time_series.run", *flags, "--epochs=2")
    assert refused.returncode == 1
    assert "training.epochs: 1 there, 2 given" in refused.stderr
    assert "Traceback" not in refused.stderr
