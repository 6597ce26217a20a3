"""A training in a process that can be killed; forked from one that has imported everything, so it starts at once."""

import contextlib
import multiprocessing
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path

import jax
import numpy as np
from orbax.checkpoint import v1 as ocp

from experiments import train as training
from experiments.training.config import TrainConfig

_FORKS = multiprocessing.get_context("forkserver")
_FORKS.set_forkserver_preload([__name__])


def start(
    config: TrainConfig, folder: Path, programs: Path, output: Path
) -> tuple[BaseProcess, Connection]:
    """Starts a training.

    Args:
      config: of one model, without a baseline.
      folder: the workdir.
      programs: where compiled programs are kept from one start to the next.
      output: file that gets what it prints.

    Returns:
      The process, and a connection that gives True once it is about to train.
    """
    here, there = _FORKS.Pipe(duplex=False)
    process = _FORKS.Process(target=_train, args=(config, folder, programs, output, there))
    process.start()
    there.close()
    return process, here


def finished(run: Path) -> int:
    """The last step that has a checkpoint of its own name."""
    folder = run / "transformer/checkpoints"
    steps = folder.iterdir() if folder.exists() else ()
    return max((int(path.name) for path in steps if path.name.isdigit()), default=0)


def assert_same_checkpoint(run: Path, other: Path, step: int) -> None:
    """Fails unless two runs' checkpoints of a step are equal bit for bit, the data's position included."""
    items = {"params": None, "optimizer": None, "meta": None}
    first, second = (
        ocp.load_checkpointables(folder / f"transformer/checkpoints/{step}", items)
        for folder in (run, other)
    )
    for item in ("params", "optimizer"):
        for name, array in first[item].items():
            np.testing.assert_array_equal(array, second[item][name], err_msg=f"{item} {name}")
    assert first["meta"] == second["meta"]


def _train(
    config: TrainConfig, folder: Path, programs: Path, output: Path, ready: Connection
) -> None:
    jax.config.update("jax_enable_compilation_cache", True)
    jax.config.update("jax_compilation_cache_dir", str(programs))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    with output.open("w", buffering=1) as file, contextlib.redirect_stdout(file):
        run = training.prepare(config, folder)
        ((name, model),) = run.models.items()
        ready.send(True)
        training.train(run.config, model, run.text, run.tokenizer, folder / name, run.layout)
