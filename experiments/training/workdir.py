"""The folder of a run: what it was started with, and whether this command may continue it.

It may be a path of this machine or a URL such as gs://BUCKET/RUN, which needs the extra "gcs". Several machines need
a folder that all of them see.
"""

import contextlib
import importlib.metadata
import json
import platform
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
from etils import epath
from jax.experimental import multihost_utils

from experiments.lock import lock
from experiments.training.config import TrainConfig, completed, flatten
from experiments.training.processes import is_first, say

# What may change between one start and the next without making another run of it. `steps` may only grow (a longer run);
# the learning-rate schedule then ends at the new last step.
MAY_CHANGE = frozenset(
    (
        "steps",
        "log_every",
        "eval_every",
        "eval_batches",
        "checkpoint_every",
        "keep_checkpoints",
        "keep_every",
        "cpu_devices",
        "distributed",
        "on_bad_step",
        "spike_factor",
        "step_timeout",
        "process_timeout",
        "probe_every",
        "profile_steps",
        "wandb_project",
        "mesh.data",
        "mesh.fsdp",
        "mesh.sequence",
        "mesh.tensor",
        "sample.prompt",
        "sample.length",
        "sample.temperature",
        "sample.top_k",
    )
)
_PACKAGES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "grain", "numpy")


@contextlib.contextmanager
def work_alone(folder: epath.PathLike) -> Iterator[None]:
    """Keeps every other run out of the folder, which is created; in the first process, for all of its job.

    Raises:
      ValueError: another run is at work there.
      OSError: it cannot be written.
    """
    folder = epath.Path(folder).expanduser()
    if not is_first():
        yield
        return
    with contextlib.ExitStack() as stack:
        if not (is_url(folder) or folder.exists()):
            stack.callback(_remove_if_empty, Path(folder))
        with _writable(folder):
            folder.mkdir(parents=True, exist_ok=True)
            stack.enter_context(lock(folder, f"--workdir={folder}"))
        yield


def _remove_if_empty(folder: Path) -> None:
    with contextlib.suppress(OSError):
        folder.rmdir()


def open_workdir(folder: epath.PathLike, config: TrainConfig) -> None:
    """Creates the folder, or checks that it belongs to this config; writes config.json and versions.json.

    Raises:
      ValueError: the folder belongs to a run with another config; names each field with both values.
      OSError: it cannot be written, or is not the same folder for all processes.
    """
    folder = epath.Path(folder).expanduser()
    path = folder / "config.json"
    flat = json.loads(json.dumps(flatten(config), default=_named))
    if path.exists():
        saved = completed(_read(path))
        differing = [
            f"  config.{name}: {saved.get(name, 'absent')!r} in the workdir, {flat.get(name, 'absent')!r} given"
            for name in sorted(saved.keys() | flat.keys())
            if name not in MAY_CHANGE and saved.get(name, "absent") != flat.get(name, "absent")
        ]
        if differing:
            raise ValueError(
                f"--workdir={folder} holds a run with another config:\n"
                + "\n".join(differing)
                + "\n"
                "give the same values, or another --workdir"
            )
        if flat["steps"] < saved["steps"]:
            raise ValueError(
                f"config.steps={flat['steps']}: the run in --workdir={folder} was started with {saved['steps']}; "
                "give at least as many, or another --workdir"
            )
        if flat["steps"] > saved["steps"]:
            say(
                f"steps: {saved['steps']} before, {flat['steps']} now; the learning rate now ends its decay there"
            )
    if is_first():
        with _writable(folder):
            folder.mkdir(parents=True, exist_ok=True)
            _write(path, flat)
            _write(folder / "versions.json", versions())
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices("workdir written")
        if not path.exists():
            raise OSError(
                f"--workdir={folder}: process {jax.process_index()} does not see what process 0 wrote there; several "
                "machines need a folder that they share, such as gs://BUCKET/RUN"
            )


def read_config(folder: epath.PathLike) -> dict[str, Any]:
    """Returns the flat config {"model.dim": 128, ...} of the run in `folder`.

    Raises:
      FileNotFoundError: there is none.
      ValueError: its file is damaged.
    """
    path = epath.Path(folder) / "config.json"
    if not path.exists():
        raise FileNotFoundError(
            f"--workdir={folder}: no run there (no config.json); train one first"
        )
    return _read(path)


def versions() -> dict[str, str]:
    """Returns the versions that a run depends on."""
    found = {name: importlib.metadata.version(name) for name in _PACKAGES}
    return {"python": platform.python_version(), "platform": platform.platform(), **found}


def is_url(path: epath.PathLike) -> bool:
    """Whether a path is no file of this machine, such as gs://BUCKET/RUN."""
    return "://" in str(path)


def absolute(path: epath.PathLike) -> epath.Path:
    """Returns the path that names the same from any working directory; `Path.absolute` would spoil a URL."""
    return epath.Path(path) if is_url(path) else epath.Path(path).absolute()


@contextlib.contextmanager
def _writable(folder: epath.Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise OSError(
            f"--workdir={folder}: cannot be written ({type(error).__name__}: {error}); make room or give "
            "permission, or choose another --workdir"
        ) from error


def _read(path: epath.Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_bytes())
    except ValueError as error:
        content, problem = None, str(error)
    else:
        problem = "it says nothing of steps"
    if isinstance(content, dict):
        if {"architectures", "model_type"} & content.keys():
            raise ValueError(
                f"{path} is a model's in the Hugging Face layout, not a run's: give a workdir of experiments.train, "
                "or read the folder by titans_jax.inference.from_pretrained"
            )
        if isinstance(content.get("steps"), int):
            return content
    raise ValueError(
        f"{path} is damaged ({problem}); write it anew from a backup, or give another --workdir"
    )


def _write(path: epath.Path, content: dict[str, Any]) -> None:
    # Under another name until it is whole: a full disk leaves what was there.
    new = path.with_name(path.name + ".new")
    new.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    new.replace(path)


def _named(value: Any) -> str:
    # A memory network may be a function; it is known by its name.
    return getattr(value, "__qualname__", repr(value))
