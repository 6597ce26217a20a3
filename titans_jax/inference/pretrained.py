"""A model as a folder in the Hugging Face layout: `config.json` and safetensors files. Local folders only.

config.json holds every field of `TitansConfig` under its own name, "memory" nested, beside "model_type",
"architectures" and the version of titans_jax that wrote it.

Tensors are the parameters under the path of their attributes, joined with ".", as NNX has them:
"embedding" is [vocab_size, dim], "layers.feed_forward.up.kernel" is [num_layers, dim, feed_forward]. Kernels are
[in, out] (the transpose of torch's `weight`), everything below "layers" has a leading axis of layers, and
"head.kernel" is there only where embeddings are not tied. They lie in `model.safetensors`, or, where that would
pass `max_shard_bytes`, in `model-00001-of-0000N.safetensors` with `model.safetensors.index.json` saying which
tensor is where.

Neither JSON nor safetensors has a checksum; files written here carry a SHA-256 of their contents ("sha256", in the
metadata of safetensors), and a file whose contents have another is refused. Files without one, from other programs, are
taken as they are; so is a config.json that was edited by hand, once its "sha256" is deleted.
"""

from __future__ import annotations

import contextlib
import dataclasses
import difflib
import hashlib
import importlib.metadata
import json
import os
import re
import stat
import uuid
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from titans_jax.config import MemoryConfig, RecurrenceConfig, TitansConfig, memory_fields
from titans_jax.fields import positive_int
from titans_jax.models.language_model import Titans
from titans_jax.registry import path_name
from titans_jax.typing import Array, PyTree

CONFIG_FILE = "config.json"
WEIGHTS_FILE = "model.safetensors"
INDEX_FILE = "model.safetensors.index.json"
MAX_SHARD_BYTES = 5_000_000_000

_SHARD_NAME = re.compile(r"model-\d{5,}-of-\d{5,}\.safetensors")
_MODEL_TYPE = "titans"
_BESIDE_CONFIG = ("model_type", "architectures", "titans_jax_version", "sha256")
_NESTED = {"memory": MemoryConfig, "recurrence": RecurrenceConfig}
_NAMES_SHOWN = 5


def save_pretrained(
    model: Titans, folder: str | os.PathLike, *, max_shard_bytes: int = MAX_SHARD_BYTES
) -> None:
    """Writes a model's config and parameters to a folder, replacing the model that is there.

    Everything is written under temporary names first. `config.json` then goes before the old weights and comes
    back after the new ones, so that a folder left half replaced is refused, not read as a mixture.

    Args:
        model: the model.
        folder: where to; made if missing. Other files in it stay.
        max_shard_bytes: most bytes of tensors in one file, but for a single tensor that is larger.

    Raises:
        ValueError: if `max_shard_bytes` is not positive, or the config holds a function.
    """
    max_shard_bytes = positive_int("max_shard_bytes", max_shard_bytes)
    config = {
        "architectures": [type(model).__name__],
        "model_type": _MODEL_TYPE,
        "titans_jax_version": library_version(),
        **config_to_dict(model.config),
    }
    config["sha256"] = content_hash({}, config)
    parameters = named_parameters(model)
    shards = _shards(parameters, max_shard_bytes)
    contents = {name: {key: parameters[key] for key in keys} for name, keys in shards.items()}
    folder = Path(folder).expanduser()
    folder.mkdir(parents=True, exist_ok=True)
    names = [*shards, INDEX_FILE] if len(shards) > 1 else [*shards]
    with replacing(folder / CONFIG_FILE) as (config_file,):
        config_file.write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
        with replacing(*(folder / name for name in names)) as files:
            for file, tensors in zip(files, contents.values(), strict=False):
                metadata = {"format": "flax", "titans_jax_version": library_version()}
                write_tensors(file, tensors, metadata)
            if len(shards) > 1:
                files[-1].write_text(_index(parameters, shards), encoding="utf-8")
            (folder / CONFIG_FILE).unlink(missing_ok=True)
        for path in folder.iterdir():
            ours = path.name in (WEIGHTS_FILE, INDEX_FILE) or _SHARD_NAME.fullmatch(path.name)
            if ours and path.name not in names:
                path.unlink()


def from_pretrained(folder: str | os.PathLike) -> Titans:
    """The model in a folder that `save_pretrained` wrote, or that has the same layout.

    No initial parameters are drawn. Tensors in a narrower float type than the model's are widened, which is exact.

    Args:
        folder: the folder; it is only read.

    Returns:
        The model, on the default device.

    Raises:
        FileNotFoundError: if the folder, its config or its weights are not there.
        ValueError: if a file is damaged, the config has an unknown, missing or bad field, or a tensor is missing,
            unexpected, or of another shape or type than the config's model has.
    """
    folder = Path(folder).expanduser()
    if not folder.is_dir():
        raise FileNotFoundError(
            f"{folder} is not a folder; from_pretrained reads local folders only"
        )
    config_file = folder / CONFIG_FILE
    values = _read_json(config_file)
    _require_as_written(values, config_file)
    config = config_from_dict(values, str(config_file))
    graph, state = nnx.split(nnx.eval_shape(lambda: Titans(config, rngs=nnx.Rngs(0))))
    shapes = nnx.to_pure_dict(state)
    wanted = named_leaves(shapes, ".")
    found: dict[str, Any] = {}
    arrays: dict[str, Array] = {}
    for tensors in _weight_files(folder):
        while tensors:  # each is let go as soon as it is on the device
            name, array = tensors.popitem()
            if name in wanted:
                array = _widened(array, wanted[name].dtype)
            found[name] = jax.ShapeDtypeStruct(array.shape, array.dtype)
            if name in wanted and not mismatches({name: array}, {name: wanted[name]}):
                arrays[name] = jnp.array(array)
    problems = mismatches(found, wanted)
    if problems:
        raise ValueError(f"{folder} does not hold the model of its {CONFIG_FILE}: {problems}")
    leaves = [arrays[name] for name in wanted]
    return nnx.merge(graph, jax.tree.unflatten(jax.tree.structure(shapes), leaves))


def config_to_dict(config: TitansConfig) -> dict[str, Any]:
    """A config as JSON values: every field, `memory` and `recurrence` nested. Equal configs give equal JSON.

    Args:
        config: the config.

    Returns:
        What `config_from_dict` takes.

    Raises:
        ValueError: if the memory network is a function, which JSON cannot hold.
    """
    network = config.memory.network
    if callable(network):
        name = getattr(network, "__name__", repr(network))
        raise ValueError(
            f"memory.network must be 'mlp' or 'residual' to be saved, got the function {name!r}"
        )
    values = _plain(config)
    for name in _NESTED:
        values[name] = _plain(getattr(config, name))
    return values


def config_from_dict(values: Any, source: str) -> TitansConfig:
    """The config in the JSON values of a `config.json`.

    Args:
        values: what `config_to_dict` gives, with or without what `save_pretrained` puts beside it.
        source: where they come from, for the errors.

    Returns:
        The config.

    Raises:
        ValueError: if a field is unknown, missing or has a bad value, or the values are of another kind of model.
    """
    if not isinstance(values, dict):
        raise ValueError(f"{source} must hold a JSON object, got {type(values).__name__}")
    model_type = values.get("model_type", _MODEL_TYPE)
    if model_type != _MODEL_TYPE:
        raise ValueError(f"{source}: model_type must be {_MODEL_TYPE!r}, got {model_type!r}")
    fields = {name: value for name, value in values.items() if name not in _BESIDE_CONFIG}
    if isinstance(fields.get("memory"), dict):
        fields["memory"] = memory_fields(fields["memory"])
    problems = _field_problems(TitansConfig, fields, "")
    for name, kind in _NESTED.items():
        nested = fields.get(name)
        if isinstance(nested, dict):
            problems += _field_problems(kind, nested, f"{name}.")
        elif name in fields:
            problems.append(f"{name} must be an object of {kind.__name__}'s fields, got {nested!r}")
    if problems:
        version = values.get("titans_jax_version", library_version())
        if version != library_version():
            problems.append(f"it was written by titans_jax {version}, this is {library_version()}")
        raise ValueError(f"{source}: {'; '.join(problems)}")
    try:
        nested = {name: kind(**fields[name]) for name, kind in _NESTED.items()}
        return TitansConfig(**{**fields, **nested})
    except (TypeError, ValueError) as error:
        raise ValueError(f"{source}: {error}") from error


def named_parameters(model: nnx.Module) -> dict[str, Array]:
    """A model's parameters by their names in a file, sorted by path."""
    return named_leaves(nnx.to_pure_dict(nnx.split(model)[1]), ".")


def named_leaves(tree: PyTree, separator: str) -> dict[str, Any]:
    """A tree's leaves by their paths, in the tree's order."""
    return {
        path_name(path, separator): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
    }


def mismatches(found: Mapping[str, Any], wanted: Mapping[str, Any]) -> str:
    """Says in which names, shapes and dtypes the found arrays are not the wanted ones.

    Args:
        found: arrays, or what has their shape and dtype.
        wanted: likewise.

    Returns:
        The differences, empty if there are none.
    """
    problems = []
    for what, names in (("missing", wanted.keys() - found), ("unexpected", found.keys() - wanted)):
        if names:
            problems.append(f"{what}: {_listed(sorted(names))}")
    shapes, dtypes = [], []
    for name in sorted(wanted.keys() & found.keys()):
        shape, dtype = tuple(found[name].shape), np.dtype(found[name].dtype)
        if shape != tuple(wanted[name].shape):
            shapes.append(f"{name} is {list(shape)}, must be {list(wanted[name].shape)}")
        if dtype != wanted[name].dtype:
            dtypes.append(f"{name} is {dtype}, must be {np.dtype(wanted[name].dtype)}")
    if shapes:
        problems.append(f"wrong shape: {_listed(shapes)}")
    if dtypes:
        hint = "" if jax.config.read("jax_enable_x64") else " (float64 needs jax_enable_x64)"
        problems.append(f"wrong dtype: {_listed(dtypes)}{hint}")
    return "; ".join(problems)


def content_hash(tensors: Mapping[str, Any], metadata: Mapping[str, Any]) -> str:
    """SHA-256 of metadata, any JSON values, and of every tensor's name, dtype, shape and bytes, in hexadecimal."""
    digest = hashlib.sha256(json.dumps(dict(metadata), sort_keys=True).encode())
    for name in sorted(tensors):
        array = np.asarray(tensors[name], order="C")
        digest.update(json.dumps([name, array.dtype.name, array.shape]).encode())
        digest.update(array.reshape(-1).view(np.uint8).data)
    return digest.hexdigest()


def write_tensors(path: Path, tensors: Mapping[str, Any], metadata: Mapping[str, str]) -> None:
    """Writes a safetensors file with a hash of its contents; see `replacing` for doing so atomically.

    Args:
        path: the file.
        tensors: arrays by name.
        metadata: text by name.

    Raises:
        OSError: if it cannot be written.
    """
    # safetensors writes an array's memory as it lies, whatever its strides.
    arrays = {name: np.asarray(tensor, order="C") for name, tensor in tensors.items()}
    path.touch()
    mode = stat.S_IMODE(path.stat().st_mode)
    try:
        save_file(arrays, path, {**metadata, "sha256": content_hash(arrays, metadata)})
    except SafetensorError as error:
        raise OSError(f"{path} could not be written: {error}") from error
    path.chmod(mode)  # safetensors makes files that only their owner may read


def read_tensors(path: Path) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """Reads a safetensors file and holds its contents to the hash in its metadata, if there is one.

    Args:
        path: the file.

    Returns:
        Arrays by name, and the metadata.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is not a safetensors file, or its contents are not what was written.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path} is not there, or not a file")
    try:
        with safe_open(path, framework="numpy") as file:
            metadata = dict(file.metadata() or {})
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except SafetensorError as error:
        raise ValueError(
            f"{path} is not a safetensors file, or it is damaged or cut short: {error}"
        ) from error
    rest = {name: text for name, text in metadata.items() if name != "sha256"}
    if "sha256" not in metadata and "titans_jax_version" in metadata:
        raise ValueError(
            f"{path} is damaged: its metadata have no 'sha256', with which it was written"
        )
    if "sha256" in metadata and metadata["sha256"] != content_hash(tensors, rest):
        raise ValueError(
            f"{path} is damaged: its contents are not those whose SHA-256 it carries; restore it from a copy"
        )
    return tensors, metadata


@contextlib.contextmanager
def replacing(*paths: Path) -> Iterator[list[Path]]:
    """Gives temporary paths beside `paths`; what was written there takes their places if the body succeeds.

    Args:
        *paths: files to be made or replaced, each at once, in this order.

    Yields:
        A temporary path for each.
    """
    temporary = [path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp") for path in paths]
    try:
        yield temporary
        for source in temporary:  # on the disk before any of them is known by its name
            with source.open("rb+") as file:  # Windows syncs only what may be written
                os.fsync(file.fileno())
        for source, path in zip(temporary, paths, strict=True):
            os.replace(source, path)
    finally:
        for source in temporary:
            source.unlink(missing_ok=True)


def library_version() -> str:
    """The installed version of titans-jax; "unknown" for a checkout that is not installed."""
    try:
        return importlib.metadata.version("titans-jax")
    except importlib.metadata.PackageNotFoundError:
        return "unknown"


def _plain(config: TitansConfig | MemoryConfig | RecurrenceConfig) -> dict[str, Any]:
    """A config's fields, where 10000 for a float field is 10000.0, so that equal configs look equal."""
    values = {}
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if isinstance(field.default, bool | float):
            value = bool(value) if isinstance(field.default, bool) else float(value)
        values[field.name] = value
    return values


def _field_problems(config: type, values: dict[str, Any], prefix: str) -> list[str]:
    """What is wrong with the names of fields, and with values that the config itself does not check."""
    fields = {field.name: field for field in dataclasses.fields(config)}
    unknown = [name for name in values if name not in fields]
    problems = []
    for name in unknown:
        nearest = difflib.get_close_matches(name, fields, n=1, cutoff=0.0)[0]
        problems.append(f"unknown field {prefix}{name}, the nearest is {prefix}{nearest}")
    for name, field in fields.items():
        if name not in values:
            close = difflib.get_close_matches(name, unknown, n=1)
            instead = f", the nearest there is {prefix}{close[0]}" if close else ""
            problems.append(f"field {prefix}{name} is missing{instead}")
            continue
        value = values[name]
        if isinstance(field.default, bool) and not isinstance(value, bool):
            problems.append(f"{prefix}{name} must be true or false, got {value!r}")
        if isinstance(field.default, float) and type(value) not in (int, float):
            problems.append(f"{prefix}{name} must be a number, got {value!r}")
    return problems


def _shards(parameters: Mapping[str, Array], limit: int) -> dict[str, list[str]]:
    """Files and the names of their tensors, filled in order as Hugging Face does."""
    groups: list[list[str]] = [[]]
    size = 0
    for name, array in parameters.items():
        if groups[-1] and size + array.nbytes > limit:
            groups.append([])
            size = 0
        groups[-1].append(name)
        size += array.nbytes
    if len(groups) == 1:
        return {WEIGHTS_FILE: groups[0]}
    count = len(groups)
    return {
        f"model-{number:05d}-of-{count:05d}.safetensors": names
        for number, names in enumerate(groups, start=1)
    }


def _index(parameters: Mapping[str, Array], shards: Mapping[str, list[str]]) -> str:
    weight_map = {name: file for file, names in shards.items() for name in names}
    total = sum(array.nbytes for array in parameters.values())
    index = {"metadata": {"total_size": total}, "weight_map": weight_map}
    return json.dumps(index, indent=2, sort_keys=True) + "\n"


def _weight_files(folder: Path) -> Iterator[dict[str, np.ndarray]]:
    """The tensors of each file of weights, one file at a time."""
    if (folder / WEIGHTS_FILE).is_file():
        yield read_tensors(folder / WEIGHTS_FILE)[0]
        return
    index_file = folder / INDEX_FILE
    if not index_file.is_file():
        raise FileNotFoundError(f"{folder} has neither {WEIGHTS_FILE} nor {INDEX_FILE}")
    index = _read_json(index_file)
    weight_map = index.get("weight_map") if isinstance(index, dict) else None
    if not isinstance(weight_map, dict):
        raise ValueError(f"{index_file} must hold an object 'weight_map' of file names by tensor")
    for file in sorted(set(map(str, weight_map.values()))):
        if Path(file).name != file:
            raise ValueError(
                f"{index_file}: {file!r} must be the name of a file in the same folder"
            )
        tensors, _ = read_tensors(folder / file)
        mapped = {name for name, place in weight_map.items() if place == file}
        if mapped != tensors.keys():
            names = _listed(sorted(mapped ^ tensors.keys()))
            raise ValueError(f"{folder / file} and {INDEX_FILE} do not agree on {names}")
        yield tensors


def _widened(array: np.ndarray, dtype: np.dtype) -> np.ndarray:
    """The array in a float type that holds all of its own values, if it is of floats at all."""
    exact = jnp.issubdtype(array.dtype, jnp.floating) and np.can_cast(array.dtype, dtype, "safe")
    return array.astype(dtype, copy=False) if exact else array


def _require_as_written(config: Any, path: Path) -> None:
    if not isinstance(config, dict) or "sha256" not in config:
        return
    rest = {name: value for name, value in config.items() if name != "sha256"}
    if config["sha256"] != content_hash({}, rest):
        raise ValueError(
            f"{path} is not what was written: it is damaged, or was edited; delete its sha256 to have it read as it is"
        )


def _read_json(path: Path) -> Any:
    if not path.is_file():
        raise FileNotFoundError(f"{path} is not there, or not a file")
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:  # of which bad UTF-8 and bad JSON are kinds
        raise ValueError(f"{path} is not JSON: {error}") from error


def _listed(entries: list[str]) -> str:
    """Entries in a row, the first few of them where there are many."""
    rest = len(entries) - _NAMES_SHOWN
    return ", ".join(entries[:_NAMES_SHOWN]) + (f" and {rest} more" if rest > 0 else "")
