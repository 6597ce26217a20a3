"""The online comparison and the pictures, at toy size."""

import json

import pytest
from matplotlib import image

from experiments.time_series import online, pictures
from experiments.time_series.recipes import MODELS
from tests.titans_jax.forecasting.tables import small_table


@pytest.fixture
def flags(tmp_path):
    small_table(500).to_csv(tmp_path / "own.csv", index=False)
    return [
        "--dataset=own.csv",
        f"--data_dir={tmp_path}",
        "--horizon=2",
        "--epochs=1",
        f"--output={tmp_path}",
    ]


def test_online_trains_with_and_without_context_and_goes_on(flags, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(online, "CONTEXT", 1)
    monkeypatch.setattr(online, "MODES", ("learning", "window"))
    online.main([*flags, "--seeds=0"])
    content = json.loads((tmp_path / "online_own.json").read_text())
    assert content["command"].endswith(
        "online --dataset=own.csv --data_dir=DIR --horizon=2 --epochs=1 --seeds=0"
    )
    assert [run["context"] for run in content["runs"]] == [0, 1]
    for run in content["runs"]:
        assert run["test"]["learning"] != run["test"]["window"]
        assert run["candidate"] == "patches"
    page = (tmp_path / "online_own.md").read_text()
    assert "| memory in training | learning | window |" in page
    assert f"| look-back alone | {content['runs'][0]['test']['learning']['mse']:.3f} / " in page
    monkeypatch.setattr(online, "measure", lambda *a: pytest.fail("measured twice"))
    online.main([*flags, "--seeds=0"])


def test_pictures_show_fixed_windows(flags, tmp_path, monkeypatch):
    monkeypatch.setitem(MODELS, "LMM", MODELS["RLinear+cycle"])  # stands in: compiles in no time
    records = [
        {"model": "LMM", "horizon": 2, "candidate": "rate 0.005", "test": {}},
        {"model": "LMM", "horizon": 2, "candidate": "rate 0.001"},
        {"model": "LMM", "horizon": 3, "candidate": "rate 0.001", "test": {}},
    ]
    (tmp_path / "own.json").write_text(json.dumps({"runs": records}))
    pictures.main(flags)
    content = json.loads((tmp_path / "forecasts_own.json").read_text())
    assert content["first_rows"] == [304, 353, 402]  # of 99 test windows
    assert content["LMM"]["candidate"] == "rate 0.005"
    assert content["RLinear"]["test"]["mse"] > 0
    assert image.imread(tmp_path / "forecasts_own.png").std() > 0.01


@pytest.mark.parametrize("command", [online, pictures])
def test_absent_files_and_short_series_are_refused(command, flags):
    with pytest.raises(
        SystemExit, match=r"ETTh1\.csv, the file of --dataset=ETTh1, does not exist"
    ):
        command.main([*flags, "--dataset=ETTh1"])
    with pytest.raises(SystemExit, match=r"the valid part has 50 rows.*a horizon of 99 need"):
        command.main([*flags, "--horizon=99"])
