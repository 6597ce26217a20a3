"""The online comparison and the pictures, at toy size."""

import dataclasses
import json

import pytest

from experiments.comparison.page import page
from experiments.time_series import online, pictures, report
from experiments.time_series.recipes import MODELS
from tests.titans_jax.forecasting.tables import small_table


@pytest.fixture
def folder(tmp_path):
    small_table(500).to_csv(tmp_path / "own.csv", index=False)
    return tmp_path


ONLINE = online.OnlineConfig(dataset="own.csv", horizon=2, seeds=(0,), epochs=1)
PICTURES = pictures.PicturesConfig(dataset="own.csv", horizon=2, epochs=1)


def test_online_trains_with_and_without_context_and_goes_on(folder, monkeypatch):
    monkeypatch.setattr(online, "CONTEXT", 1)
    monkeypatch.setattr(online, "MODES", ("learning", "window"))
    results = online.main(ONLINE, folder / "work", folder)
    assert list(results["models"]) == ["0", "1"]
    for model in results["models"].values():
        (judged,) = model["results"]
        assert judged["learning"] != judged["window"]
        assert model["best"] == "patches"
    text = page({"command": "c", **results}, results["name"], report.ONLINE)
    assert "| memory in training | learning all the time | anew in every window |" in text
    (judged,) = results["models"]["0"]["results"]
    assert f"| look-back alone | {judged['learning']['mse']:.3f} / " in text
    assert report.ONLINE.figure(results) is not None
    monkeypatch.setattr(online.Trainer, "train", lambda *a: pytest.fail("trained twice"))
    assert online.main(ONLINE, folder / "work", folder) == results


def test_pictures_show_fixed_windows(folder, monkeypatch):
    monkeypatch.setitem(MODELS, "LMM", MODELS["RLinear+cycle"])  # stands in: compiles in no time
    studies = {
        "2": {"models": {"LMM": {"best": "rate 0.005"}}},
        "3": {"models": {"LMM": {"best": "rate 0.001"}}},
    }
    (folder / "work").mkdir()
    (folder / "work" / "own.json").write_text(json.dumps({"horizons": studies}))
    results = pictures.main(PICTURES, folder / "work", folder)
    assert results["first_rows"] == [304, 353, 402]  # of 99 test windows
    assert results["models"]["LMM"]["candidate"] == "rate 0.005"
    assert results["models"]["RLinear"]["test"]["mse"] > 0
    for window in results["windows"]:
        assert set(window["true"]) == set(results["columns"])
        assert {len(values) for values in window["true"].values()} == {96 + 2}
        assert {len(v) for f in window["forecasts"].values() for v in f.values()} == {2}
    text = page({"command": "c", **results}, results["name"], report.FORECASTS)
    assert f"| RLinear | rate 0.001 | {results['models']['RLinear']['test']['mse']:.3f} / " in text
    assert report.FORECASTS.figure(results) is not None


@pytest.mark.parametrize(("program", "config"), [(online, ONLINE), (pictures, PICTURES)])
def test_absent_files_and_short_series_are_refused(program, config, folder):
    with pytest.raises(
        FileNotFoundError, match=r"ETTh1\.csv, the file of --dataset=ETTh1, does not exist"
    ):
        program.main(dataclasses.replace(config, dataset="ETTh1"), folder / "work", folder)
    with pytest.raises(ValueError, match=r"the valid part has 50 rows.*a horizon of 99 need"):
        program.main(dataclasses.replace(config, horizon=99), folder / "work", folder)
