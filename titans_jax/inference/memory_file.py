"""A stream's memory as one file: what a model has read, to go on from later, elsewhere, any number of times.

The file is safetensors. Tensors are the leaves of a `Stream`, each under its path, such as
"state/memory/memory/weights/0". The metadata say which model the memory belongs to, because fast weights mean
nothing to other parameters: the model's config as JSON and its fingerprint. A SHA-256 covers the tensors and the
metadata, for the format has no checksum of its own and a flipped bit would go unnoticed.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from titans_jax.inference.pretrained import (
    config_to_dict,
    content_hash,
    library_version,
    mismatches,
    named_leaves,
    named_parameters,
    read_tensors,
    replacing,
    write_tensors,
)
from titans_jax.inference.stream import Stream, require_unused, start_stream
from titans_jax.models.language_model import Titans

FORMAT = "titans-jax memory 1"


def save_memory(
    stream: Stream, path: str | os.PathLike, model: Titans, *, source: str = ""
) -> None:
    """Writes a stream to a file, which is replaced at once or not at all.

    Args:
        stream: the stream of any number of sequences.
        path: the file, in a folder that exists.
        model: the model that read the stream.
        source: where that model can be found, for `memory_source`.

    Raises:
        FileNotFoundError: if there is no such folder.
        ValueError: if the stream is not one of this model's.
    """
    if not isinstance(stream, Stream):
        raise ValueError(f"stream must be a Stream, got {type(stream).__name__}")
    require_unused(stream)
    path = Path(path).expanduser()
    if not path.parent.is_dir():
        raise FileNotFoundError(f"{path.parent}, the folder for {path.name}, does not exist")
    tensors = named_leaves(stream, "/")
    batch_size = stream.logits.shape[0]
    problems = mismatches(tensors, named_leaves(_abstract_stream(model, batch_size, tensors), "/"))
    if problems:
        raise ValueError(f"stream is not one of this model's, so {path} is not written: {problems}")
    metadata = {
        "format": FORMAT,
        "fingerprint": fingerprint(model),
        "config": _config_json(model),
        "batch_size": str(batch_size),
        "source": source,
        "titans_jax_version": library_version(),
    }
    with replacing(path) as (temporary,):
        write_tensors(temporary, tensors, metadata)


def memory_source(path: str | os.PathLike) -> str:
    """Where the model of a memory file can be found, as `save_memory` was told.

    Args:
        path: the file.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is damaged, is not a memory's, or does not say.
    """
    _, metadata = _read(Path(path).expanduser())
    if not metadata.get("source"):
        raise ValueError(f"{path} does not say where its model is")
    return metadata["source"]


def load_memory(path: str | os.PathLike, model: Titans) -> Stream:
    """Reads a stream that `save_memory` wrote, bit for bit.

    Args:
        path: the file; it is only read.
        model: the model that it was saved with, or an equal one.

    Returns:
        The stream, on the default device.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is damaged, is not a memory's, or belongs to another model.
    """
    path = Path(path).expanduser()
    tensors, metadata = _read(path)
    _require_same_model(path, metadata, model)
    batch_size = metadata["batch_size"]
    if not (batch_size.isdecimal() and int(batch_size) > 0):
        raise ValueError(f"{path}: batch_size must be a positive integer, got {batch_size!r}")
    stream = _abstract_stream(model, int(batch_size), tensors)
    wanted = named_leaves(stream, "/")
    problems = mismatches(tensors, wanted)
    if problems:
        raise ValueError(f"{path} does not hold a stream of this model: {problems}")
    leaves = [jnp.array(tensors[name]) for name in wanted]
    return jax.tree.unflatten(jax.tree.structure(stream), leaves)


def _read(path: Path) -> tuple[dict[str, Any], dict[str, str]]:
    tensors, metadata = read_tensors(path)
    if metadata.get("format") != FORMAT:
        raise ValueError(
            f"{path} is not a memory file: its format is {metadata.get('format')!r}, must be {FORMAT!r}"
        )
    for name in ("sha256", "fingerprint", "config", "batch_size"):
        if name not in metadata:
            raise ValueError(f"{path} is not a whole memory file: its metadata have no {name!r}")
    return tensors, metadata


def fingerprint(model: Titans) -> str:
    """What tells a model from any other: SHA-256 of its config and parameters, every bit of them.

    It reads all parameters, so it takes time in proportion to the model.

    Args:
        model: the model.

    Returns:
        64 hexadecimal digits, the same on every machine.
    """
    return content_hash(named_parameters(model), {"config": _config_json(model)})


def _config_json(model: Titans) -> str:
    return json.dumps(config_to_dict(model.config), sort_keys=True)


def _abstract_stream(model: Titans, batch_size: int, tensors: Mapping[str, Any]) -> Stream:
    """The model's stream as shapes; a cache of all tokens is as long as that among `tensors`."""

    def abstract(max_length: int) -> Stream:
        return jax.eval_shape(lambda: start_stream(model, batch_size, max_length))

    shortest = abstract(1)
    leaves = named_leaves(shortest, "/")
    if not mismatches(tensors, leaves):
        return shortest
    for name, longer in named_leaves(abstract(2), "/").items():
        for axis, (one, two) in enumerate(zip(leaves[name].shape, longer.shape, strict=True)):
            # Where the length shows. A tensor that is absent or has too few axes is for the caller to name.
            if one != two and name in tensors and axis < len(tensors[name].shape):
                return abstract(max(1, tensors[name].shape[axis]))
    return shortest


def _require_same_model(path: Path, metadata: Mapping[str, str], model: Titans) -> None:
    """Raises a ValueError that says in what the model of a file differs from this one, if it does."""
    if metadata["fingerprint"] == fingerprint(model):
        return
    saved = _flat(json.loads(metadata["config"]))
    now = _flat(config_to_dict(model.config))
    differing = [
        f"{field} is {saved.get(field, 'absent')!r} in the file, {now.get(field, 'absent')!r} here"
        for field in sorted(saved.keys() | now.keys())
        if saved.get(field, "absent") != now.get(field, "absent")
    ]
    reason = "; ".join(differing) or (
        "the config is the same, but the parameters are others (another seed, or trained further)"
    )
    raise ValueError(f"{path} is another model's memory: {reason}")


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested fields as "memory.chunk"."""
    flat: dict[str, Any] = {}
    for name, value in values.items():
        nested = isinstance(value, dict)
        flat |= _flat(value, f"{prefix}{name}.") if nested else {f"{prefix}{name}": value}
    return flat
