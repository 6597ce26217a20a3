"""A fitted forecaster as one safetensors file, and back, bit for bit."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Hashable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from titans_jax.config import MemoryConfig
from titans_jax.forecasting.scaling import Standardiser
from titans_jax.forecasting.streaming import Stream, start_stream
from titans_jax.forecasting.table import Dates, Series
from titans_jax.forecasting.training import Errors, TrainingConfig
from titans_jax.inference.pretrained import (
    mismatches,
    named_leaves,
    named_parameters,
    read_tensors,
    replacing,
    write_tensors,
)
from titans_jax.models.forecaster import Forecaster, ForecasterConfig

FORMAT = "titans-jax forecaster 2"


class Fitted(NamedTuple):
    """All that a fitted forecaster is.

    Attributes:
        model: with its parameters.
        scaler: of the table.
        last: the last rows, in the table's units.
        rows: how many there have been.
        stream: the memory that has read them; None where the network cannot stream.
        errors: on the validation part; None without one.
        training: how it was trained.
        arguments: other arguments of the estimator.
    """

    model: Forecaster
    scaler: Standardiser
    last: Series
    rows: int
    stream: Stream | None
    errors: Errors | None
    training: TrainingConfig
    arguments: dict[str, Any]


def write_fitted(path: Path, fitted: Fitted) -> None:
    """Writes the file, which is replaced at once or not at all.

    Args:
        path: the file, in a folder that exists; "~" is the home folder.
        fitted: what it is to hold.

    Raises:
        ValueError: if the memory network is a function, or a label or time zone is one that no file holds.
    """
    config, last = fitted.model.config, fitted.last
    if callable(config.memory.network):
        raise ValueError("a forecaster whose memory network is a function cannot be saved")
    tensors: dict[str, Any] = {
        f"model.{name}": leaf for name, leaf in named_parameters(fitted.model).items()
    }
    tensors |= {"scaler.mean": fitted.scaler.mean, "scaler.std": fitted.scaler.std}
    tensors["last.values"] = last.values
    dated = None
    if last.dated is not None:
        from titans_jax.forecasting.calendar import unit_of, zone_name

        tensors["last.dates"] = last.dated.instants.astype(np.int64)
        dated = {
            "unit": unit_of(last.dated.instants),
            "zone": zone_name(last.dated.zone),
            "step": None if last.dated.step is None else dataclasses.asdict(last.dated.step),
            "name": _written(last.dated.name),
            "place": last.dated.place,
        }
    if fitted.stream is not None:
        tensors |= _stream_leaves(fitted.stream)
    content = {
        "columns": [_written(label) for label in last.columns],
        "levels": [_written(label) for label in last.levels],
        "dated": dated,
        "rows": fitted.rows,
        "errors": fitted.errors,
        "network": dataclasses.asdict(config),
        "arguments": fitted.arguments,
        "training": dataclasses.asdict(fitted.training),
    }
    with replacing(path.expanduser()) as (temporary,):
        write_tensors(temporary, tensors, {"format": FORMAT, "fitted": json.dumps(content)})


def read_fitted(path: Path) -> Fitted:
    """What `write_fitted` wrote.

    Args:
        path: the file; "~" is the home folder.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is damaged or no forecaster's.
    """
    path = path.expanduser()
    tensors, metadata = read_tensors(path)
    if metadata.get("format") != FORMAT:
        raise ValueError(
            f"{path} is not a forecaster: its format is {metadata.get('format')!r}, must be {FORMAT!r}"
        )
    content = json.loads(metadata["fitted"])
    fields = dict(content["network"])
    config = ForecasterConfig(**{**fields, "memory": MemoryConfig(**fields["memory"])})
    model = _restored(config, tensors, path)
    return Fitted(
        model=model,
        scaler=Standardiser(tensors["scaler.mean"], tensors["scaler.std"]),
        last=Series(
            tensors["last.values"],
            tuple(_read(label) for label in content["columns"]),
            tuple(_read(label) for label in content["levels"]),
            _read_dates(tensors, content["dated"]),
        ),
        rows=content["rows"],
        stream=_restored_stream(model, tensors, path),
        errors=None if content["errors"] is None else Errors(*content["errors"]),
        training=TrainingConfig(**content["training"]),
        arguments=content["arguments"],
    )


def _written(label: Hashable) -> Any:
    """A label as JSON holds it."""
    if isinstance(label, tuple):
        return {"tuple": [_written(part) for part in label]}
    plain = label.item() if isinstance(label, np.bool_ | np.integer | np.floating) else label
    if plain is None or isinstance(plain, str | bool | int | float):
        return plain
    if type(label).__name__ == "Timestamp" and getattr(label, "tzinfo", None) is None:
        return {"timestamp": str(label)}
    raise ValueError(
        f"the label {label!r} is a {type(label).__name__}, which no file holds: rename it to a string or a number"
    )


def _read(written: Any) -> Hashable:
    if not isinstance(written, dict):
        return written
    if "tuple" in written:
        return tuple(_read(part) for part in written["tuple"])
    import pandas as pd

    return pd.Timestamp(written["timestamp"])


def _read_dates(tensors: Mapping[str, Any], dated: dict[str, Any] | None) -> Dates | None:
    if dated is None:
        return None
    from titans_jax.forecasting.calendar import Step, zone_of

    return Dates(
        tensors["last.dates"].astype(f"datetime64[{dated['unit']}]"),
        zone_of(dated["zone"]),
        None if dated["step"] is None else Step(**dated["step"]),
        _read(dated["name"]),
        dated["place"],
    )


def _stream_leaves(stream: Any) -> dict[str, Any]:
    return {f"stream.{name}": leaf for name, leaf in named_leaves(stream, "/").items()}


def _restored(config: ForecasterConfig, tensors: Mapping[str, Any], path: Path) -> Forecaster:
    graph, state = nnx.split(nnx.eval_shape(lambda: Forecaster(config, rngs=nnx.Rngs(0))))
    shapes = nnx.to_pure_dict(state)
    wanted = {f"model.{name}": leaf for name, leaf in named_leaves(shapes, ".").items()}
    found = {name: leaf for name, leaf in tensors.items() if name.startswith("model.")}
    problems = mismatches(found, wanted)
    if problems:
        raise ValueError(f"{path} does not hold the forecaster of its config: {problems}")
    leaves = [jnp.asarray(found[name]) for name in wanted]
    return nnx.merge(graph, jax.tree.unflatten(jax.tree.structure(shapes), leaves))


def _restored_stream(model: Forecaster, tensors: Mapping[str, Any], path: Path) -> Stream | None:
    found = {name: leaf for name, leaf in tensors.items() if name.startswith("stream.")}
    if not found:
        return None
    shape = jax.eval_shape(lambda: start_stream(model))
    wanted = _stream_leaves(shape)
    problems = mismatches(found, wanted)
    if problems:
        raise ValueError(f"{path} does not hold a stream of its forecaster: {problems}")
    leaves = [jnp.asarray(found[name]) for name in wanted]
    return jax.tree.unflatten(jax.tree.structure(shape), leaves)
