"""The program's own: which of two errors is told, and what a first run shows."""

import contextlib

import pytest

from experiments.configs import tiny
from experiments.train import at_end
from experiments.training.checkpoints import CheckpointError
from experiments.training.config import train_config


def leave(error=None):
    def fails():
        raise OSError("the disk is full here too")

    with contextlib.ExitStack() as stack:
        at_end(stack, fails)
        if error is not None:
            raise error


def test_the_error_that_came_first_is_told():
    with pytest.raises(CheckpointError, match="the first"):
        leave(CheckpointError("the first"))
    with pytest.raises(OSError, match="full here too"):
        leave()
    with pytest.raises(OSError, match="full here too"):
        leave(SystemExit(75))  # "all is saved" would not be true


def test_the_first_run_probes_validates_and_saves():
    config = train_config(tiny.get_config())
    for every in (config.probe_every, config.eval_every, config.checkpoint_every):
        assert 0 < every < config.steps
