"""A fault of a process of its own is printed, and ends it without waiting for the others."""

import os
import time

import pytest

from experiments.training import lost


class Ended(Exception):
    """Where the process would be gone."""


def test_a_fault_of_its_own_ends_with_an_error(monkeypatch, capsys):
    slept = []

    def end(code):
        raise Ended(code)

    monkeypatch.setattr(time, "sleep", slept.append)
    monkeypatch.setattr(os, "_exit", end)
    try:
        raise OSError("no space left")
    except OSError:
        with pytest.raises(Ended) as ended:
            lost.outlive(process_timeout=7)
    assert ended.value.args == (1,)
    assert slept == [14]  # long enough to be aborted, if another process was lost
    said = capsys.readouterr().err
    assert said.index("OSError: no space left") < said.index("error: no process was lost")
