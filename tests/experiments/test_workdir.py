"""Workdirs: unwritable, full, and at a URL."""

import errno
import json
import types

import fsspec
import pytest
from etils import epath
from fsspec.implementations.memory import MemoryFileSystem
from orbax.checkpoint import v1 as ocp

from experiments.lock import LockedError
from experiments.training.checkpoints import Checkpoints
from experiments.training.workdir import absolute, open_workdir, read_config, work_alone
from tests.experiments.tiny_run import tiny_config
from titans_jax.config import RULE_OF_0_1


def test_unwritable_workdir_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match=r"--workdir=.*/file/run: cannot be written \(NotADirectory"):
        open_workdir(tmp_path / "file/run", tiny_config(tmp_path))


def test_full_disk_leaves_the_config_that_is_there(tmp_path, monkeypatch):
    open_workdir(tmp_path / "run", tiny_config(tmp_path))
    before = (tmp_path / "run/config.json").read_text()

    def full(self, *_, **__):
        with self.open("w") as file:
            file.write("{")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(type(epath.Path(tmp_path)), "write_text", full)
    with pytest.raises(OSError, match=r"cannot be written .*No space left on device"):
        open_workdir(tmp_path / "run", tiny_config(tmp_path, steps=9))
    assert (tmp_path / "run/config.json").read_text() == before


def test_a_second_run_is_refused_and_an_unused_folder_goes(tmp_path):
    with work_alone(tmp_path / "run"):
        with (
            pytest.raises(LockedError, match=r"--workdir=.*/run: process \d+ on .* at work"),
            work_alone(tmp_path / "run"),
        ):
            pass
        assert (tmp_path / "run/lock").exists()
    assert not (tmp_path / "run").exists()
    with pytest.raises(KeyError), work_alone(tmp_path / "run"):
        raise KeyError
    assert not (tmp_path / "run").exists()
    with work_alone(tmp_path / "run"):
        open_workdir(tmp_path / "run", tiny_config(tmp_path))
    assert {path.name for path in (tmp_path / "run").iterdir()} == {"config.json", "versions.json"}


@pytest.mark.parametrize("content", [b'{"steps": 6', b'{"a": "\xff"}', b"[]", b"{}"])
def test_a_damaged_config_is_named(tmp_path, content):
    config, run = tiny_config(tmp_path), tmp_path / "run"
    open_workdir(run, config)
    (run / "config.json").write_bytes(content)
    for read in (lambda: open_workdir(run, config), lambda: read_config(run)):
        with pytest.raises(ValueError, match=r"run/config\.json is damaged \("):
            read()


def test_workdir_at_a_url(tmp_path, monkeypatch):
    memory = MemoryFileSystem()
    monkeypatch.setattr(fsspec, "filesystem", lambda *_, **__: memory)
    config = tiny_config(tmp_path)
    open_workdir("gs://bucket/run", config)
    open_workdir("gs://bucket/run", config)
    assert read_config("gs://bucket/run")["steps"] == config.steps
    with pytest.raises(ValueError, match=r"config\.seed: 0 in the workdir, 5 given"):
        open_workdir("gs://bucket/run", tiny_config(tmp_path, seed=5))
    files = {path.name for path in epath.Path("gs://bucket/run").iterdir()}
    assert files == {"config.json", "versions.json"}
    assert json.loads(epath.Path("gs://bucket/run/versions.json").read_text())["jax"]


def test_a_url_stays_one(tmp_path, monkeypatch):
    memory, folders = MemoryFileSystem(), []

    def checkpointer(folder, **_):
        folders.append(str(folder))
        return types.SimpleNamespace(checkpoints=[])

    monkeypatch.setattr(fsspec, "filesystem", lambda *_, **__: memory)
    monkeypatch.setattr(ocp.training, "Checkpointer", checkpointer)
    monkeypatch.chdir(tmp_path)
    assert str(absolute("gs://bucket/run")) == "gs://bucket/run"
    assert absolute("runs/mac") == epath.Path(tmp_path / "runs/mac")
    Checkpoints("gs://bucket/run/checkpoints", every=1, keep=2)
    Checkpoints("runs/mac/checkpoints", every=1, keep=2)
    assert folders == ["gs://bucket/run/checkpoints", f"{tmp_path}/runs/mac/checkpoints"]


def test_a_run_of_version_0_1_goes_on(tmp_path):
    """Its config has `bound_step` and none of the memory's later fields; another value is still another run."""
    old_rule = {f"model__memory__{name}": value for name, value in RULE_OF_0_1.items()}
    config = tiny_config(tmp_path, **old_rule)
    open_workdir(tmp_path / "run", config)
    path = tmp_path / "run/config.json"
    later = ("anchor", "bound", "lower_step", "forget_to", "forget_bias", "weights_start")
    saved = json.loads(path.read_text())
    old = {n: v for n, v in saved.items() if n.removeprefix("model.memory.") not in later}
    path.write_text(json.dumps(old | {"model.memory.bound_step": True}))
    open_workdir(tmp_path / "run", config)
    path.write_text(json.dumps(old | {"model.memory.bound_step": False}))
    with pytest.raises(ValueError, match=r"config.model.memory.bound: 'none' in the workdir"):
        open_workdir(tmp_path / "run", config)
    with pytest.raises(ValueError, match=r"memory.anchor: 'chunk' in the workdir, 'token' given"):
        open_workdir(tmp_path / "run", tiny_config(tmp_path))
