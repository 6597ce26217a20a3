"""The committed pages are what their committed JSON says."""

import importlib
import json
from pathlib import Path

import pytest

RESULTS = Path(__file__).parents[2] / "experiments" / "results"
EXPERIMENTS = (
    "ablation",
    "babilong",
    "language_modeling",
    "memory_depth",
    "needle_in_a_haystack",
    "state_tracking",
)
FILES = [path for name in EXPERIMENTS for path in sorted((RESULTS / name).glob("*.json"))]


@pytest.mark.parametrize("path", FILES, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_a_page_is_made_from_its_json(path):
    report = importlib.import_module(f"experiments.{path.parent.name}.report")
    results = json.loads(path.read_text(encoding="utf-8"))
    assert report.markdown(results) == path.with_suffix(".md").read_text(encoding="utf-8")
    assert path.with_suffix(".png").exists()


@pytest.mark.parametrize("name", ["memory_alone", "reading_on"])
def test_a_table_of_pilots_is_made_from_its_lines(name):
    module = importlib.import_module(f"experiments.{name}")
    for path in (RESULTS / name).glob("*.jsonl"):
        rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
        assert module.page(rows) == path.with_suffix(".md").read_text(encoding="utf-8")
