"""The committed pages are what their committed JSON says, byte for byte, and the JSON holds no more than they need."""

import importlib
import json
from pathlib import Path

import pytest

from experiments.comparison.page import page
from experiments.efficiency import peer_page
from experiments.time_series import report as time_series

RESULTS = Path(__file__).parents[2] / "experiments" / "results"
EXPERIMENTS = (
    "ablation",
    "babilong",
    "efficiency",
    "genomics",
    "language_modeling",
    "memory_depth",
    "needle_in_a_haystack",
    "state_tracking",
    "time_series",
)
FILES = [RESULTS / "compare_peer.json"]
FILES += [path for name in EXPERIMENTS for path in sorted((RESULTS / name).glob("*.json"))]
#: "a few hundred lines a study": the largest page is of three studies.
MOST_LINES = 900


def report_of(path):
    if path.stem == "compare_peer":
        return peer_page.REPORT
    for beginning in ("online", "forecasts"):
        if path.stem.startswith(f"{beginning}_"):
            return getattr(time_series, beginning.upper())
    return importlib.import_module(f"experiments.{path.parent.name}.report").REPORT


@pytest.mark.parametrize("path", FILES, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_a_page_is_made_from_its_json(path):
    text = path.read_text(encoding="utf-8")
    assert len(text.splitlines()) <= MOST_LINES
    made = page(json.loads(text), path.stem, report_of(path))
    assert made == path.with_suffix(".md").read_text(encoding="utf-8")
    drawn = path.stem != "compare_peer"
    assert (f"]({path.stem}.png)" in made) == drawn
    assert path.with_suffix(".png").exists() == drawn


def test_the_table_of_all_data_sets_is_made_of_theirs():
    folder = RESULTS / "time_series"
    paths = [folder / f"{name}.json" for name in time_series.PAPER]
    every = [json.loads(path.read_text(encoding="utf-8")) for path in paths if path.is_file()]
    assert time_series.summary(every) == (folder / "summary.md").read_text(encoding="utf-8")


def test_every_page_has_its_json():
    pages = {path for name in EXPERIMENTS for path in (RESULTS / name).glob("*.md")}
    assert pages - {path.with_suffix(".md") for path in FILES} == {
        RESULTS / "time_series" / "summary.md"
    }


@pytest.mark.parametrize("name", ["memory_alone", "reading_on"])
def test_a_table_of_pilots_is_made_from_its_lines(name):
    module = importlib.import_module(f"experiments.{name}")
    for path in (RESULTS / name).glob("*.jsonl"):
        rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
        assert module.page(rows) == path.with_suffix(".md").read_text(encoding="utf-8")
