"""Checkpoints of a run: parameters, optimizer state, data position and what they belong to, with Orbax.

A checkpoint holds flat dicts {"layers/mixer/kernel": array}, so that any program can read it without this one's
classes. It is written in the background, by every process what its devices hold, under another name until it is whole;
it can be read onto another mesh and by another number of processes. Each array's checksum is saved beside it: storage
that returns other bytes than it was given goes unnoticed by the format itself, and training on would be silently wrong.
With several processes, all of them call every function here together; the folder must be one that all of them share.
"""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

import grain
import jax
import numpy as np
from etils import epath
from jax.experimental import multihost_utils
from jaxtyping import PyTree
from orbax.checkpoint import v1 as ocp

from experiments.training.checksums import checksums
from experiments.training.optimizer import path_name
from experiments.training.processes import is_first, say
from experiments.training.workdir import absolute

T = TypeVar("T")
_policies = ocp.training


class CheckpointError(ValueError):
    """A checkpoint cannot be written or used; the message says what a user can do about it."""


class DamagedError(CheckpointError):
    """A checkpoint does not hold what was saved."""


class Checkpoints:
    """The sequence of checkpoints of one model, under one folder."""

    def __init__(self, folder: epath.PathLike, *, every: int, keep: int, keep_every: int = 0):
        """Opens the folder to write in it.

        Args:
          folder: created if missing; what an earlier run did not finish writing is removed from it.
          every: steps between checkpoints.
          keep: the newest so many are kept.
          keep_every: those at multiples of so many steps are kept too; 0 = none.
        """
        self._folder = absolute(folder)
        self._pending: int | None = None  # the step being written
        preserved = [_policies.preservation_policies.LatestN(keep)]
        if keep_every:
            preserved.append(_policies.preservation_policies.EveryNSteps(keep_every))
        before = {path.name for path in _entries(self._folder)} if is_first() else set()
        self._checkpointer = _policies.Checkpointer(
            self._folder,
            save_decision_policy=_policies.save_decision_policies.FixedIntervalPolicy(every),
            preservation_policy=_policies.preservation_policies.AnyPreservationPolicy(preserved),
            cleanup_tmp_directories=True,
        )
        for name in sorted(before - {str(step) for step in self.steps}):
            if name.split(".")[0].isdigit():
                say(f"checkpoint {self._folder}/{name} was never finished; it is removed")

    @property
    def steps(self) -> list[int]:
        """Steps that have a checkpoint, ascending."""
        return [checkpoint.step for checkpoint in self._checkpointer.checkpoints]

    def due(self, step: int) -> bool:
        """Whether a checkpoint belongs at this step and is not there yet.

        Raises:
          CheckpointError: the one that was being written could not be. Earlier ones are untouched.
        """
        if self._pending is not None and not self._checkpointer.is_saving_in_progress():
            self.wait()  # takes no time, and says what went wrong now and not at the next checkpoint
        return step not in self.steps and self._checkpointer.should_save(step)

    def save(
        self,
        step: int,
        params: PyTree,
        opt_state: PyTree,
        data: grain.DatasetIterator,
        identity: dict[str, Any],
    ) -> None:
        """Writes a checkpoint in the background; first waits for the one being written.

        Args:
          step: optimizer steps done.
          params: the parameters.
          opt_state: the optimizer's state; with that of a carried memory where there is one (carry.py).
          data: the Grain iterator, after this step's batch; one that can be set to any batch.
          identity: JSON values that must be equal on restore (see `restore`), such as a tokenizer's fingerprint.

        Raises:
          CheckpointError: this one, or the one before, could not be written. Earlier ones are untouched.
        """
        self.wait()
        flat = {"params": _stored(flatten(params)), "optimizer": _stored(flatten(opt_state))}
        meta = {
            "step": step,
            "identity": identity,
            "batches": grain.experimental.get_next_index(data),
            "checksums": {name: checksums(arrays) for name, arrays in flat.items()},
        }
        self._pending = step
        with self._writing():
            self._checkpointer.save_checkpointables_async(step, {**flat, "meta": meta}, force=True)

    def restore(
        self,
        params: PyTree,
        opt_state: PyTree,
        data: grain.DatasetIterator,
        identity: dict[str, Any],
    ) -> tuple[int, PyTree, PyTree]:
        """Returns (step, params, optimizer state) of the newest readable checkpoint and moves `data` to its position.

        A damaged checkpoint is reported and the one before it is tried. Once one was read, the damaged ones after it
        are moved to the folder `damaged` beside the checkpoints. Without any checkpoint the arguments come back with
        step 0.

        Args:
          params: arrays or their shapes; their shardings say where the parameters are put, whatever mesh they were
            saved under.
          opt_state: likewise.
          data: a Grain iterator over the same data, in batches of the same size over all processes.
          identity: must equal what was saved.

        Raises:
          CheckpointError: the checkpoint belongs to another model, tokenizer or text, or every one is damaged.
        """
        if not self.steps:
            return 0, params, opt_state
        wanted = {
            "params": _stored(flatten(params, _abstract)),
            "optimizer": _stored(flatten(opt_state, _abstract)),
        }

        def read(checkpoint: epath.Path) -> tuple[dict[str, Any], dict[str, dict[str, jax.Array]]]:
            record = read_record(checkpoint)
            check_identity(record["identity"], identity, f"{checkpoint}")
            _check_names(checkpoint, record, wanted)
            return record, read_arrays(checkpoint, record, wanted)

        (record, found), damaged = first_undamaged(checkpoints_in(self._folder), read)
        # How many batches were drawn is the same for every share of them, so it fits any number of processes.
        grain.experimental.set_next_index(data, record["batches"])
        for later in damaged:
            self._set_aside(later)
        return (
            record["step"],
            _restored(params, found["params"]),
            _restored(opt_state, found["optimizer"]),
        )

    def wait(self) -> None:
        """Waits for the checkpoint being written.

        Raises:
          CheckpointError: it could not be written. Earlier ones are untouched.
        """
        with self._writing():
            self._checkpointer.wait()
        self._pending = None

    def close(self) -> None:
        """Waits for the checkpoint being written; nothing can be saved afterwards.

        Raises:
          CheckpointError: it could not be written. Earlier ones are untouched.
        """
        with self._writing():
            self._checkpointer.close()

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            yield
        except Exception as error:  # Orbax raises whatever its storage layers raise
            step, self._pending = self._pending, None
            raise CheckpointError(
                f"checkpoint {self._folder}/{step} could not be written ({_reason(error)}). Earlier checkpoints are "
                "untouched: once there is room, or the permission, the same command continues from the newest"
            ) from error

    def _set_aside(self, checkpoint: epath.Path) -> None:
        # Out of the way, or the next save at this step would have to overwrite it.
        aside = self._folder.parent / "damaged"
        target, number = aside / checkpoint.name, 1
        while target.exists():
            number += 1
            target = aside / f"{checkpoint.name}.{number}"
        _together(f"chose {target}")  # before the first process moves something there
        if is_first():
            aside.mkdir(parents=True, exist_ok=True)
            checkpoint.rename(target)
        _together(f"moved {target}")
        self._checkpointer.reload()
        say(f"checkpoint {checkpoint} moved to {target}; nothing is deleted")


def restore_params(folder: epath.PathLike, params: PyTree) -> tuple[int, PyTree, dict[str, Any]]:
    """Returns (step, params, identity) of the newest readable checkpoint in `folder`; reads only, moves nothing.

    Args:
      folder: what `Checkpoints` wrote to.
      params: gives the structure, shapes, types and shardings.

    Raises:
      FileNotFoundError: there is no checkpoint.
      CheckpointError: none can be read, or it holds other parameters.
    """
    wanted = {"params": flatten(params, _abstract)}

    def read(checkpoint: epath.Path) -> tuple[dict[str, Any], dict[str, dict[str, jax.Array]]]:
        record = read_record(checkpoint)
        _check_names(checkpoint, record, wanted)
        return record, read_arrays(checkpoint, record, wanted)

    (record, found), _ = first_undamaged(checkpoints_in(folder), read)
    params = jax.tree.unflatten(jax.tree.structure(params), found["params"].values())
    return record["step"], params, record["identity"]


def checkpoints_in(folder: epath.PathLike) -> list[epath.Path]:
    """Returns the checkpoints that `Checkpoints` wrote to `folder`, newest first.

    Raises:
      FileNotFoundError: there is none.
    """
    folder = absolute(folder)  # Orbax reads no relative path
    found = [path for path in _entries(folder) if path.name.isdigit()]
    if not found:
        raise FileNotFoundError(f"no checkpoint under {folder}; train first")
    return sorted(found, key=lambda path: int(path.name), reverse=True)


def first_undamaged(
    checkpoints: Sequence[epath.Path], read: Callable[[epath.Path], T]
) -> tuple[T, list[epath.Path]]:
    """Returns what `read` returns for the first checkpoint that is not damaged, and the damaged ones before it.

    Args:
      checkpoints: to try in order; at least one.
      read: raises DamagedError for a damaged one.

    Raises:
      CheckpointError: all are damaged.
    """
    damaged: list[epath.Path] = []
    for checkpoint in checkpoints:
        try:
            return read(checkpoint), damaged
        except DamagedError as error:
            say(f"{error}; trying the one before")
            damaged.append(checkpoint)
    steps = sorted(int(checkpoint.name) for checkpoint in checkpoints)
    raise CheckpointError(
        f"no checkpoint under {checkpoints[0].parent} can be read (steps {steps}); restore them from a copy, "
        "or choose another folder"
    )


def read_record(checkpoint: epath.Path) -> dict[str, Any]:
    """Reads what stands beside the arrays: "step", "identity", "batches", "checksums" (by item and array).

    Raises:
      DamagedError: in every process, if one of them cannot read it.
    """
    record = _read(checkpoint, {"meta": None})["meta"]
    lacking = {"step", "identity", "batches", "checksums"} - record.keys()
    if lacking:
        raise DamagedError(
            f"checkpoint {checkpoint} is damaged (no {sorted(lacking)} in its record)"
        )
    return record


def read_arrays(
    checkpoint: epath.Path,
    record: dict[str, Any],
    wanted: dict[str, dict[str, jax.ShapeDtypeStruct]],
) -> dict[str, dict[str, jax.Array]]:
    """Reads arrays and verifies their checksums.

    Args:
      checkpoint: folder of one step.
      record: see `read_record`.
      wanted: "params" and "optimizer" or one of them, and in each the arrays to read, with the types they were
        saved with and the shardings to read them onto. Others that the checkpoint holds are left.

    Raises:
      DamagedError: in every process, if one of them cannot read its part.
    """
    found = _read(checkpoint, wanted)
    for name, arrays in found.items():
        for path, value in checksums(arrays).items():
            if record["checksums"][name][path] != value:
                raise DamagedError(
                    f"checkpoint {checkpoint} is damaged ({name}/{path} is not what was saved: its checksum differs)"
                )
    # In the order that was asked for, which is the tree's; Orbax has its own.
    return {name: {path: found[name][path] for path in arrays} for name, arrays in wanted.items()}


def _read(checkpoint: epath.Path, items: dict[str, Any]) -> dict[str, Any]:
    # Orbax would have the others wait for a process that fails. So each reads by itself, and then they compare.
    me = jax.process_index()
    alone = ocp.Context()
    alone.multiprocessing.primary_host = me
    alone.multiprocessing.active_processes = {me}
    alone.multiprocessing.barrier_sync_key_prefix = f"process_{me}"
    alone.pytree.loading.partial_load = True
    found, failure = {}, None
    try:
        with alone:
            found = ocp.load_checkpointables(checkpoint, items)
    except Exception as error:  # Orbax raises whatever its storage layers raise
        failure = _reason(error)
    if not all(_from_all(failure is None)):
        reason = failure or "another process cannot read it"
        raise DamagedError(f"checkpoint {checkpoint} is damaged ({reason})")
    return {name: found[name] for name in items}


def _check_names(checkpoint: epath.Path, record: dict[str, Any], wanted: dict[str, Any]) -> None:
    for name, arrays in wanted.items():
        saved = record["checksums"][name].keys()
        if saved != arrays.keys():
            raise CheckpointError(
                f"checkpoint {checkpoint} holds another model's {name}: only there {sorted(saved - arrays.keys())}, "
                f"only here {sorted(arrays.keys() - saved)}. Use the version of the program that wrote it"
            )


def check_identity(saved: dict[str, Any], now: dict[str, Any], where: str) -> None:
    """Raises CheckpointError that names each entry in which a checkpoint's identity differs from the present one."""
    differing = [
        f"{name}: {value} in the checkpoint, {now[name]} now"
        for name, value in saved.items()
        if name in now and now[name] != value
    ]
    if differing:
        raise CheckpointError(
            f"checkpoint {where} belongs to something else: {'; '.join(differing)}. Use what it was trained with, or "
            "another --workdir"
        )


def flatten(tree: PyTree, leaf: Any = lambda x: x) -> dict[str, Any]:
    """Returns {"layers/mixer/kernel": leaf(array)} in the tree's own order."""
    return {path_name(path): leaf(x) for path, x in jax.tree_util.tree_flatten_with_path(tree)[0]}


def _stored(flat: dict[str, Any]) -> dict[str, Any]:
    """What of a flat dict is written: Orbax refuses arrays without a number."""
    return {name: x for name, x in flat.items() if x.size}


def _restored(tree: PyTree, found: dict[str, jax.Array]) -> PyTree:
    """A tree with the arrays that were read; one without a number is what it was."""
    leaves = [found.get(name, leaf) for name, leaf in flatten(tree).items()]
    return jax.tree.unflatten(jax.tree.structure(tree), leaves)


def _abstract(x: Any) -> jax.ShapeDtypeStruct:
    here = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=getattr(x, "sharding", None) or here)


def _entries(folder: epath.Path) -> list[epath.Path]:
    return list(folder.iterdir()) if folder.is_dir() else []


def _reason(error: BaseException) -> str:
    # The cause lies at the bottom of Orbax's chain of wrappers.
    while isinstance(error.__cause__, Exception):
        error = error.__cause__
    line = next(iter(str(error).strip().splitlines()), "")
    return f"{type(error).__name__}: {line[:200]}"


def _from_all(value: bool) -> list[bool]:
    """What every process says."""
    if jax.process_count() == 1:
        return [value]
    return np.ravel(multihost_utils.process_allgather(np.asarray(value))).tolist()


def _together(point: str) -> None:
    """Waits until every process has come here."""
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices(point)
