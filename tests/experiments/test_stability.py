"""The stability table: what counts as diverged, resuming, and one toy run."""

import dataclasses
import json

import numpy as np
import pytest

from experiments import stability
from experiments.stability import Curves, Settings, judge

FALLING = np.linspace(8.0, 3.0, 60).tolist()


def judged(bits, gradient=None, weights=None):
    ones = [1.0] * len(bits)
    return judge(Curves(bits, gradient or ones, weights or ones))


def test_a_falling_loss_is_stable():
    row = judged(FALLING, gradient=[2.0] * 59 + [7.0], weights=[5.0] + [4.0] * 59)
    assert row["first_bpb"] == 8.0
    assert row["last_bpb"] == pytest.approx(np.mean(FALLING[-20:]))
    assert row["max_gradient_norm"] == 7.0
    assert row["max_weight_norm"] == 5.0
    assert row["last_weight_norm"] == 4.0
    assert row["bad_steps"] == 0
    assert not row["diverged"]


def test_a_loss_that_comes_back_up_diverged():
    assert judged([*FALLING, *[4.5] * 20])["diverged"]
    assert not judged([*FALLING, *[4.1] * 20])["diverged"]


def test_a_loss_that_never_falls_diverged():
    assert judged([8.0] * 30)["diverged"]


@pytest.mark.parametrize("curve", ["bits", "gradient", "weights"])
def test_one_number_that_is_not_finite_diverged(curve):
    curves = {"bits": list(FALLING), "gradient": [1.0] * 60, "weights": [1.0] * 60}
    curves[curve][30] = float("nan")
    row = judged(**curves)
    assert row["bad_steps"] == 1
    assert row["diverged"]


def test_other_settings_are_refused(tmp_path):
    path = tmp_path / "table.json"
    path.write_text(json.dumps({"settings": {"data": "stdlib", "steps": 5}, "rows": []}))
    with pytest.raises(ValueError, match="steps=5, this run has steps=300"):
        stability.read_rows(path, Settings())


def test_data_shorter_than_a_sequence_is_refused(tmp_path):
    (tmp_path / "short").write_bytes(b"abc")
    with pytest.raises(ValueError, match=r"has 3 bytes.*length=4096"):
        stability.read_bytes(Settings(data=str(tmp_path / "short")))


def test_every_run_sees_the_same_windows():
    tokens = np.arange(100, dtype=np.int32)
    settings = Settings(steps=3, length=8, batch=2)
    first, second = (list(stability.windows(settings, tokens)) for _ in range(2))
    np.testing.assert_array_equal(first, second)
    assert np.shape(first) == (3, 2, 9)
    assert (np.diff(first, axis=-1) == 1).all()


@pytest.mark.parametrize("depths", [(0,), ("a",), ()])
def test_depths_must_be_positive_integers(depths):
    with pytest.raises(ValueError, match=r"^depths must be "):
        stability.Grid(depths=depths)


def test_a_toy_table_is_written_and_resumed(tmp_path, monkeypatch, capsys):
    """Two runs of two steps; a second start finds them and trains nothing."""
    (tmp_path / "text").write_bytes(bytes(range(97, 117)) * 20)
    settings = Settings(
        data=str(tmp_path / "text"), steps=3, length=16, dim=8, layers=1, feed_forward=8, learning_rate=0.01
    )  # fmt: skip
    grid = stability.Grid((1,), (4,), str(tmp_path / "table.json"), str(tmp_path / "table.md"))
    said = "python -m experiments.stability --data=text"
    stability.run_grid(settings, grid, said)
    rows = json.loads((tmp_path / "table.json").read_text())["rows"]
    assert [(row["depth"], row["chunk"]) for row in rows] == [(1, 4)]
    assert rows[0]["first_bpb"] == pytest.approx(8.0, abs=0.2)
    assert rows[0]["max_weight_norm"] > 0
    assert rows[0]["bad_steps"] == 0
    assert "runs=1 diverged=" in capsys.readouterr().out

    trained = []

    def train(settings, depth, chunk, tokens):
        trained.append((depth, chunk))
        return Curves(FALLING, [1.0] * 60, [1.0] * 60)

    monkeypatch.setattr(stability, "train", train)
    stability.run_grid(settings, dataclasses.replace(grid, depths=(1, 2)), said)
    assert trained == [(2, 4)]
    page = (tmp_path / "table.md").read_text()
    assert "| 1 | 4 |" in page
    assert "| 2 | 4 | 8.000 | 3.805 |" in page
    assert said in page
