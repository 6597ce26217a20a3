"""Starting from the parameters of another run: `--config.restore_from=DIR`.

Parameters are matched by name; those that only one side has are listed, and one that has another shape is an error.
The optimizer and the data start anew.
"""

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from etils import epath
from jaxtyping import PyTree
from orbax.checkpoint import v1 as ocp

from experiments.training.checkpoints import (
    DamagedError,
    check_identity,
    checkpoints_in,
    first_undamaged,
    flatten,
    read_arrays,
    read_record,
)
from experiments.training.processes import say
from experiments.training.workdir import absolute, read_config


class Match(NamedTuple):
    """How the parameters of a checkpoint fit a model's."""

    checkpoint: epath.Path
    record: dict[str, Any]  # see `read_record`
    matched: dict[str, jax.ShapeDtypeStruct]  # as they were saved
    missing: dict[str, tuple[int, ...]]  # the model has them, the checkpoint has not
    unused: dict[str, tuple[int, ...]]  # the other way round


def match(source: epath.PathLike, params: PyTree, identity: dict[str, Any]) -> Match:
    """Compares the newest readable checkpoint of `source` with a model's parameters; reads no array.

    Args:
      source: the workdir of a run, the folder of one of its models or of its checkpoints, or one checkpoint.
      params: the model's, or their shapes.
      identity: JSON values in which the checkpoint must not differ, such as the tokenizer's fingerprint.

    Raises:
      FileNotFoundError: there is no checkpoint.
      ValueError: none can be read, no parameter matches, one has another shape, or the identity differs.
    """

    def read(checkpoint: epath.Path) -> tuple[epath.Path, dict[str, Any], dict[str, Any]]:
        record = read_record(checkpoint)
        try:
            saved = ocp.checkpointables_metadata(checkpoint).metadata["params"]
        except Exception as error:  # Orbax raises whatever its storage layers raise
            raise DamagedError(f"checkpoint {checkpoint} is damaged ({error})") from error
        return checkpoint, record, saved

    (checkpoint, record, saved), _ = first_undamaged(_checkpoints_of(absolute(source)), read)
    check_identity(record["identity"], identity, f"{checkpoint}")
    own = flatten(params)
    differing = [
        f"  {name}: {saved[name].shape} in the checkpoint, {own[name].shape} here"
        for name in own
        if name in saved and tuple(saved[name].shape) != own[name].shape
    ]
    if differing:
        raise ValueError(
            f"config.restore_from={source}: parameters of other shapes in {checkpoint}:\n"
            + "\n".join(differing)
            + "\ngive a config with the sizes that the checkpoint was trained with"
        )
    matched = {
        name: jax.ShapeDtypeStruct(tuple(saved[name].shape), saved[name].dtype)
        for name in own
        if name in saved
    }
    if not matched:
        raise ValueError(
            f"config.restore_from={source}: no parameter of {checkpoint} has the name of one of this model's; it "
            f"holds {sorted(saved)[:3]} ..., this model has {sorted(own)[:3]} ..."
        )
    missing = {name: own[name].shape for name in own if name not in saved}
    unused = {name: tuple(saved[name].shape) for name in saved if name not in own}
    return Match(checkpoint, record, matched, missing, unused)


def start_from(found: Match, params: PyTree) -> PyTree:
    """Returns `params` with the matched ones read from the checkpoint, and prints what became of each.

    Args:
      found: see `match`.
      params: initialised, where they are to lie.

    Raises:
      DamagedError: the checkpoint's arrays are not what was saved.
    """
    own = flatten(params)
    wanted = {
        name: jax.ShapeDtypeStruct(saved.shape, saved.dtype, sharding=own[name].sharding)
        for name, saved in found.matched.items()
    }
    read = read_arrays(found.checkpoint, found.record, {"params": wanted})["params"]
    say("\n".join(table(found)))
    own |= {name: jnp.astype(array, own[name].dtype) for name, array in read.items()}
    return jax.tree.unflatten(jax.tree.structure(params), own.values())


def table(found: Match) -> list[str]:
    """Returns the lines that list what matched, what is missing and what is unused."""
    shapes = {name: saved.shape for name, saved in found.matched.items()}
    count = sum(map(math.prod, shapes.values()))
    total = count + sum(map(math.prod, found.missing.values()))
    lines = [
        f"restored from {found.checkpoint}: {len(shapes)} of {len(shapes) + len(found.missing)} arrays, "
        f"{count:,} of {total:,} parameters"
    ]
    for title, arrays in (
        ("matched", shapes),
        ("missing there, initialised here", found.missing),
        ("unused, only there", found.unused),
    ):
        if arrays:
            lines.append(f"  {title}:")
        lines += [f"    {name} {shape}" for name, shape in arrays.items()]
    return lines


def _checkpoints_of(source: epath.Path) -> list[epath.Path]:
    if (source / "config.json").exists():  # a run: its own model, not its baseline
        source = source / read_config(source)["model.variant"]
    if (source / "checkpoints").is_dir():
        source = source / "checkpoints"
    if source.name.isdigit() and (source / "params").is_dir():
        return [source]
    try:
        return checkpoints_in(source)
    except FileNotFoundError as error:
        raise FileNotFoundError(
            f"config.restore_from={source}: no checkpoint there; give the workdir of a run, or one checkpoint"
        ) from error
