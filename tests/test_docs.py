"""README and docs/: their code runs, their links lead somewhere, and README's figures are those of the results."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
README = ROOT / "README.md"
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])
LINK = re.compile(r"\]\(([^()\s]+)\)")
#: A number that stands for itself: not the 5 of S5, nor a part of a version.
NUMBER = re.compile(r"(?<![\w.])\d[\d,]*(?:\.\d+)?(?![\w.]*\w)")


def numbers(text):
    return {number.rstrip(",").replace(",", "") for number in NUMBER.findall(text)}


def targets(text):
    """Relative links, without those in code."""
    text = re.sub(r"```.*?```|`[^`\n]*`", "", text, flags=re.DOTALL)
    return [link for link in LINK.findall(text) if not re.match(r"\w+:|#", link)]


def figures_rows(text):
    """The rows of the table whose third column links figures, as (answer, linked pages)."""
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in text.splitlines()]
    table = [row for row in rows if len(row) == 4 and row[2].startswith("[figures]")]
    return [(row[0] + row[1], targets(row[2])) for row in table]


def code_blocks(text):
    return re.findall(r"^```python\n(.*?)^```", text, flags=re.MULTILINE | re.DOTALL)


def test_readme_is_one_page():
    assert len(README.read_text().splitlines()) <= 130


def test_numbers_are_read():
    assert numbers("at 16,384 bytes, 2.5 %; S5, v5e, 0.5.5, 12.") == {"16384", "2.5", "12"}
    assert targets("[a](b.md) ![c](d.png) [e](https://f) `[g](h)` [i](#j)") == ["b.md", "d.png"]


def test_readme_figures_are_those_of_the_results():
    rows = figures_rows(README.read_text())
    assert len(rows) == 8
    for answer, pages in rows:
        (page,) = pages
        assert page.startswith("experiments/results/")
        assert numbers(answer), answer
        missing = numbers(answer) - numbers((ROOT / page).read_text())
        assert not missing, f"{page} does not have {missing}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_links_lead_somewhere(page):
    broken = [
        link
        for link in targets(page.read_text())
        if not (page.parent / link.split("#")[0]).exists()
    ]
    assert not broken


@pytest.mark.slow
def test_code_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("book.txt").write_text("Once upon a midnight dreary")
    names = {}
    for page in (README, ROOT / "docs/choices.md"):
        blocks = code_blocks(page.read_text())
        assert blocks
        for block in blocks:
            exec(compile(block, page.name, "exec"), names)
    assert names["y"].shape == names["y2"].shape == names["x"].shape
    assert names["lengths"].tolist() == [20]
    assert Path("book.safetensors").exists()
    assert names["config"].memory.bound == "none"
