"""The report of a run, in a folder of this machine or at a URL."""

import json

import fsspec
import pytest
from etils import epath
from fsspec.implementations.memory import MemoryFileSystem

from experiments.training.report import write_report


@pytest.mark.parametrize("place", ["disk", "url"])
def test_it_lies_in_the_workdir(place, tmp_path, monkeypatch, capsys):
    memory = MemoryFileSystem()
    monkeypatch.setattr(fsspec, "filesystem", lambda *_, **__: memory)
    workdir = epath.Path(tmp_path if place == "disk" else "gs://reports/run")
    records = {
        "mac": [{"step": 1, "bpb": 5.0}, {"step": 2, "bpb": 4.0}, {"step": 2, "valid_bpb": 4.5}]
    }
    write_report(workdir, {"mac": 4.5, "lzma": 2.0}, {"mac": 1234}, records, "def f():")
    assert (workdir / "loss.png").read_bytes().startswith(b"\x89PNG")
    assert (workdir / "sample.txt").read_text() == "def f():\n"
    assert json.loads((workdir / "report.json").read_text())["parameters"] == {"mac": 1234}
    assert f"everything lies under {workdir}" in capsys.readouterr().out
