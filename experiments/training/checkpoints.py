"""Checkpoints of a run: parameters, optimizer state, data position and what they belong to, with Orbax.

A checkpoint holds flat dicts {"layers/mixer/kernel": array}, so that any program can read it without this one's
classes. Each array's CRC-32 is saved beside it: storage that returns other bytes than it was given goes unnoticed by
the format itself, and training on would be silently wrong.
"""

import shutil
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jaxtyping import PyTree
from orbax.checkpoint import v1 as ocp

from experiments.training.optimizer import path_name

_policies = ocp.training


class Checkpoints:
    """The sequence of checkpoints of one model, under one folder."""

    def __init__(self, folder: Path, *, every: int, keep: int):
        """Opens `folder`, created if missing; saves at multiples of `every` and keeps the newest `keep`."""
        self._folder = folder.absolute()
        self._checkpointer = _policies.Checkpointer(
            self._folder,
            save_decision_policy=_policies.save_decision_policies.FixedIntervalPolicy(every),
            preservation_policy=_policies.preservation_policies.LatestN(keep),
        )

    @property
    def steps(self) -> list[int]:
        """Steps that have a checkpoint, ascending."""
        return [checkpoint.step for checkpoint in self._checkpointer.checkpoints]

    def due(self, step: int) -> bool:
        """Whether `save` would write at this step."""
        return step not in self.steps and self._checkpointer.should_save(step)

    def save(
        self, step: int, params: PyTree, opt_state: PyTree, data: Iterator, identity: dict[str, Any]
    ) -> None:
        """Writes a checkpoint in the background.

        Args:
          step: optimizer steps done.
          params: the parameters.
          opt_state: the optimizer's state.
          data: the Grain iterator, after this step's batch.
          identity: JSON values that must be equal on restore (see `restore`), such as a tokenizer's fingerprint.
        """
        flat = {"params": _flatten(params), "optimizer": _flatten(opt_state)}
        meta = {"step": step, "identity": identity, "crc32": jax.tree.map(_crc32, flat)}
        self._checkpointer.save_checkpointables_async(
            step, {**flat, "data": data, "meta": meta}, force=True
        )

    def restore(
        self, params: PyTree, opt_state: PyTree, data: Iterator, identity: dict[str, Any]
    ) -> tuple[int, PyTree, PyTree]:
        """Returns (step, params, optimizer state) of the newest readable checkpoint and moves `data` to its position.

        A damaged checkpoint is reported and the one before it is tried. Once one was read, the damaged ones after it
        are moved to the folder `damaged` beside the checkpoints. Without any checkpoint the arguments come back with
        step 0.

        Args:
          params: gives the structure, shapes and types to restore.
          opt_state: likewise.
          data: a Grain iterator over the same data.
          identity: must equal what was saved.

        Raises:
          ValueError: the checkpoint belongs to another tokenizer or text, or every checkpoint is damaged.
        """
        steps = self.steps
        wanted = {"params": params, "optimizer": opt_state}
        damaged = []
        for step in reversed(steps):
            try:
                loaded, meta = self._load(step, wanted, data)
            except Exception as error:  # Orbax raises whatever its storage layers raise
                _report_damage(self._folder / str(step), error)
                damaged.append(step)
                continue
            check_identity(meta["identity"], identity, f"{self._folder}/{step}")
            for later in damaged:
                self._set_aside(later)
            return step, loaded["params"], loaded["optimizer"]
        if steps:
            raise ValueError(
                f"no checkpoint under {self._folder} can be read (steps {steps}); "
                "restore them from a copy, or choose another --workdir"
            )
        return 0, params, opt_state

    def close(self) -> None:
        """Waits for checkpoints being written."""
        self._checkpointer.close()

    def _load(
        self, step: int, wanted: dict[str, PyTree], data: Iterator | None
    ) -> tuple[dict[str, PyTree], dict[str, Any]]:
        items: dict[str, Any] = {name: _flatten(tree, _abstract) for name, tree in wanted.items()}
        items["meta"] = None
        if data is not None:
            items["data"] = data
        found = self._checkpointer.load_checkpointables(step, items)
        meta = found["meta"]
        trees = {}
        for name, tree in wanted.items():
            for path, array in found[name].items():
                if _crc32(array) != meta["crc32"][name][path]:
                    raise ValueError(f"{name}/{path} is not what was saved: CRC-32 differs")
            trees[name] = jax.tree.unflatten(jax.tree.structure(tree), found[name].values())
        return trees, meta

    def _set_aside(self, step: int) -> None:
        # Out of the way, or the next save at this step would have to overwrite it.
        aside = self._folder.with_name("damaged")
        target, number = aside / str(step), 1
        while target.exists():
            number += 1
            target = aside / f"{step}.{number}"
        aside.mkdir(exist_ok=True)
        shutil.move(self._folder / str(step), target)
        self._checkpointer.reload()
        print(f"checkpoint {self._folder}/{step} moved to {target}; nothing is deleted", flush=True)


def restore_params(folder: Path, params: PyTree) -> tuple[int, PyTree, dict[str, Any]]:
    """Returns (step, params, identity) of the newest readable checkpoint in `folder`; reads only, moves nothing.

    Args:
      folder: what `Checkpoints` wrote to.
      params: gives the structure, shapes and types.

    Raises:
      FileNotFoundError: there is no checkpoint.
      ValueError: none can be read.
    """
    if not folder.is_dir():
        raise FileNotFoundError(f"no checkpoints under {folder}; train first")
    checkpoints = Checkpoints(folder, every=1, keep=2)
    steps = checkpoints.steps
    try:
        for step in reversed(steps):
            try:
                loaded, meta = checkpoints._load(step, {"params": params}, None)
            except Exception as error:  # Orbax raises whatever its storage layers raise
                _report_damage(folder / str(step), error)
                continue
            return step, loaded["params"], meta["identity"]
    finally:
        checkpoints.close()
    if not steps:
        raise FileNotFoundError(f"no checkpoint under {folder}; train first")
    raise ValueError(
        f"no checkpoint under {folder} can be read (steps {steps}); restore them from a copy"
    )


def check_identity(saved: dict[str, Any], now: dict[str, Any], where: str) -> None:
    """Raises ValueError that names each entry in which a checkpoint's identity differs from the present one."""
    differing = [
        f"{name}: {value} in the checkpoint, {now[name]} now"
        for name, value in saved.items()
        if name in now and now[name] != value
    ]
    if differing:
        raise ValueError(
            f"checkpoint {where} belongs to something else: {'; '.join(differing)}. Use what it was trained with, or "
            "another --workdir"
        )


def _flatten(tree: PyTree, leaf: Any = lambda x: x) -> dict[str, Any]:
    # Insertion order is the tree's order, which unflattening relies on.
    return {path_name(path): leaf(x) for path, x in jax.tree_util.tree_flatten_with_path(tree)[0]}


def _abstract(x: Any) -> jax.ShapeDtypeStruct:
    sharding = getattr(x, "sharding", None) or jax.sharding.SingleDeviceSharding(jax.devices()[0])
    return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding)


def _crc32(x: Any) -> int:
    return zlib.crc32(np.ascontiguousarray(jax.device_get(x)).tobytes())


def _report_damage(checkpoint: Path, error: Exception) -> None:
    # The cause lies at the bottom of Orbax's chain of wrappers.
    while isinstance(error.__cause__, Exception):
        error = error.__cause__
    reason = next(iter(str(error).strip().splitlines()), "")[:160]
    print(
        f"checkpoint {checkpoint} is damaged ({type(error).__name__}: {reason}); trying the one before",
        flush=True,
    )
