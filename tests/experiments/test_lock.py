"""One lock for all folders: who holds it is named, a dead holder's is taken over, here, on other machines, at a URL."""

import errno
import fcntl
import json
import threading
import time

import fsspec
import pytest
from etils import epath
from fsspec.implementations.memory import MemoryFileSystem

from experiments import lock as module
from experiments.lock import LockedError, lock


@pytest.fixture
def quick(monkeypatch):
    for name, seconds in {"BEAT": 0.05, "STALE": 0.4, "SETTLE": 0.1}.items():
        monkeypatch.setattr(module, name, seconds)


@pytest.fixture(params=["disk", "no kernel's locks", "url"])
def folder(request, tmp_path, monkeypatch):
    """A folder that another machine's process may have locked."""

    def none(*_):
        raise OSError(errno.ENOLCK, "No locks available")

    if request.param == "no kernel's locks":
        monkeypatch.setattr(fcntl, "flock", none)
    if request.param == "url":
        memory = MemoryFileSystem()
        monkeypatch.setattr(fsspec, "filesystem", lambda *_, **__: memory)
        where = epath.Path(f"gs://locks/{tmp_path.name}")
        where.mkdir(parents=True)
        return where
    return epath.Path(tmp_path)


def left_by_another_machine(folder, beat=0):
    holder = {"host": "elsewhere", "process": 7, "start": "noon", "token": "theirs", "beat": beat}
    (folder / "lock").write_text(json.dumps(holder))


def test_who_works_there_is_named_and_nothing_is_left(folder, quick):
    with lock(folder, "--workdir=x"):
        time.sleep(0.2)
        with pytest.raises(LockedError, match=r"^--workdir=x: process \d+ on .* is at work there"):
            lock(folder, "--workdir=x").__enter__()
    assert list(folder.iterdir()) == []
    with pytest.raises(KeyError), lock(folder, "--workdir=x"):
        raise KeyError
    assert list(folder.iterdir()) == []


def test_a_machine_whose_beat_goes_on_keeps_its_lock(folder, quick):
    left_by_another_machine(folder)
    timer = threading.Timer(0.2, left_by_another_machine, (folder, 1))
    timer.start()
    with pytest.raises(
        LockedError, match=r"process 7 on elsewhere \(since noon\) is at work there"
    ):
        lock(folder, "x").__enter__()
    timer.join()
    assert json.loads((folder / "lock").read_text())["token"] == "theirs"


@pytest.mark.parametrize("content", [None, '{"host": "else', "\0\0\0"])
def test_a_machine_whose_beat_stays_away_is_dead(folder, quick, content, capsys):
    left_by_another_machine(folder)
    if content is not None:
        (folder / "lock").write_text(content)
    began = time.monotonic()
    with lock(folder, "x"):
        assert json.loads((folder / "lock").read_text())["token"] != "theirs"
    if content != "\0\0\0":
        assert time.monotonic() - began >= 0.4
        assert "taken over in 0 seconds if it is dead" in capsys.readouterr().err


def test_a_killed_process_of_this_machine_hinders_nobody(tmp_path):
    with lock(tmp_path, "x"):
        left = (tmp_path / "lock").read_text()
    (tmp_path / "lock").write_text(
        left
    )  # as after kill -9, but for the kernel's lock, which went with it
    began = time.monotonic()
    with lock(tmp_path, "x"):
        assert time.monotonic() - began < 5


def test_a_holder_that_was_held_up_and_taken_over_ends(folder, quick, monkeypatch, capsys):
    ended = threading.Event()
    codes = []

    def end(code):
        if not ended.is_set():
            codes.append(code)
        ended.set()
        raise OSError  # so that the thread goes on, as it would not

    monkeypatch.setattr(module.os, "_exit", end)
    with lock(folder, "x"):
        left_by_another_machine(folder)
        assert ended.wait(10)
    assert codes == [75]
    assert "lock is now process 7 on elsewhere" in capsys.readouterr().err
    assert json.loads((folder / "lock").read_text())["token"] == "theirs"


def test_of_two_that_start_together_at_a_url_one_works(folder, quick, monkeypatch):
    if not str(folder).startswith("gs:"):
        pytest.skip("the kernel decides")
    monkeypatch.setattr(module.time, "sleep", lambda _: left_by_another_machine(folder))
    with pytest.raises(LockedError, match="process 7 on elsewhere"):
        lock(folder, "x").__enter__()
