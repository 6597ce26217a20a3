"""A notebook is committed in two forms that agree; its first cell leaves an installed JAX as it is."""

import importlib.util
import re
import shutil

import pytest

from experiments.notebooks.check import names, problems, source


@pytest.mark.parametrize("name", names())
def test_its_committed_forms_agree(name):
    assert problems(name) == []


@pytest.mark.parametrize("name", names())
@pytest.mark.parametrize(
    ("missing", "gpu", "asked"),
    [
        ((), True, []),
        (("titans_jax",), True, ["titans-jax"]),
        (("titans_jax", "jax"), True, ["titans-jax[cuda]"]),
        (("titans_jax", "jax"), False, ["titans-jax"]),
    ],
)
def test_what_it_installs(name, missing, gpu, asked, monkeypatch):
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda n: None if n in missing else find(n))
    monkeypatch.setattr(shutil, "which", lambda _: "nvidia-smi" if gpu else None)
    monkeypatch.setattr("os.path.exists", lambda _: False)
    cell = next(cell for cell in source(name).cells if cell.cell_type == "code").source
    program, count = re.subn(
        r'%pip install --quiet "\{(\w+)\}".*', r"installed.append(\1.split()[0])", cell
    )
    assert count == 1
    installed: list[str] = []
    exec(program, {"installed": installed})
    assert installed == asked
