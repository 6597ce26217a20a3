"""`TitansForecaster`: fit, predict, observe, save, load on a table, in the manner of scikit-learn."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from titans_jax.config import MemoryConfig
from titans_jax.fields import below_one, optional, positive_int, random_seed, require, whole
from titans_jax.forecasting.scaling import Standardiser, standardiser
from titans_jax.forecasting.streaming import Stream, forecast, observe, start_stream
from titans_jax.forecasting.table import Missing, Series, phases, read_series, rows_per_day
from titans_jax.forecasting.training import Errors, TrainingConfig, train
from titans_jax.forecasting.windows import Parts, window_starts
from titans_jax.inference.pretrained import (
    mismatches,
    named_leaves,
    named_parameters,
    read_tensors,
    replacing,
    write_tensors,
)
from titans_jax.models.forecaster import Forecaster, ForecasterConfig

FORMAT = "titans-jax forecaster 1"
#: Fields of ForecasterConfig that the table or other arguments decide.
_DECIDED = ("lookback", "horizon", "variates", "season")


class TitansForecaster:
    """Forecasts every column of a table by a neural memory.

    Example:
        >>> forecaster = TitansForecaster(horizon=96).fit(table)   # a DataFrame with dates, or an array
        >>> forecaster.predict()                    # the 96 rows after the table
        >>> forecaster.predict(other_table)         # the 96 rows after another table's last
        >>> forecaster.observe(new_rows).predict()  # online: the memory has learned from the new rows
        >>> forecaster.save("forecaster.safetensors")
        >>> TitansForecaster.load("forecaster.safetensors").predict()

    After `fit`: `errors_` (MSE and MAE of standardised values on the validation part, None without one),
    `columns_`, `model_` and `scaler_`.
    """

    model_: Forecaster
    scaler_: Standardiser
    errors_: Errors | None
    columns_: tuple[str, ...]
    _last: Series  # the last rows, in the table's units
    _rows: int  # how many there have been
    _stream: Stream | None  # None where the network cannot stream

    def __init__(
        self,
        horizon: int = 96,
        lookback: int = 96,
        *,
        season: int | None = None,
        valid_fraction: float = 0.2,
        missing: Missing = "raise",
        network: Mapping[str, Any] | None = None,
        training: TrainingConfig | None = None,
        seed: int = 0,
    ):
        """Sets what `fit` does; nothing is computed.

        Args:
            horizon: rows to predict.
            lookback: rows that a forecast sees.
            season: rows of the learned cycle; None for a day where dates tell, else none; 0 for none.
            valid_fraction: part of the rows, the last ones, that chooses the epoch; 0 for none.
            missing: "raise" at missing values and rows, or "ffill" with the last value seen.
            network: other fields of `ForecasterConfig`.
            training: see `TrainingConfig`. Its `context` must be above 0 for a memory that gains by `observe`.
            seed: of parameters, order and dropout.

        Raises:
            ValueError: naming the argument that does not fit.
        """
        horizon, lookback = positive_int("horizon", horizon), positive_int("lookback", lookback)
        season = optional(whole("an integer, 0 for none", 0))("season", season)
        valid_fraction = below_one("valid_fraction", valid_fraction)
        seed = random_seed("seed", seed)
        network = dict(network or {})
        known = {f.name for f in dataclasses.fields(ForecasterConfig)} - set(_DECIDED)
        unknown = sorted(set(network) - known)
        require(not unknown, "network", unknown, f"of the fields {sorted(known)}")
        self.horizon, self.lookback, self.season = horizon, lookback, season
        self.valid_fraction, self.missing, self.network = valid_fraction, missing, network
        self.training, self.seed = training or TrainingConfig(), seed
        self._config(variates=1, season=0)  # refuses what does not fit before there is any data

    def fit(self, table: Any) -> TitansForecaster:
        """Trains on a table; an earlier fit is forgotten.

        Args:
            table: see `read_series`.

        Raises:
            TypeError, ValueError: for a table that cannot be taken, naming column and row; for one too short.
        """
        series = read_series(table, self.missing)
        rows = len(series.values)
        needed = self.lookback + self.horizon
        if rows < needed:
            raise ValueError(
                f"the table has {rows} rows, but lookback={self.lookback} and horizon={self.horizon} need "
                f"at least {needed}: use a longer table or a shorter horizon"
            )
        first_valid = rows - int(rows * self.valid_fraction)
        starts = window_starts(Parts(first_valid, rows, rows), self.lookback, self.horizon)
        season = self.season
        if season is None:
            season = 0 if series.dates is None else rows_per_day(series.dates)
        model = Forecaster(
            self._config(variates=len(series.columns), season=season), rngs=nnx.Rngs(self.seed)
        )
        self.scaler_ = standardiser(series.values[:first_valid])
        result = train(
            model,
            self.training,
            jnp.asarray(self.scaler_.apply(series.values)),
            jnp.asarray(phases(series.dates, rows, season)),
            starts.train,
            starts.valid,
            lookback=self.lookback,
            horizon=self.horizon,
            seed=self.seed,
        )
        self.model_ = result.model  # type: ignore[assignment]
        self.errors_ = result.errors[result.best] if result.errors else None
        self.columns_ = series.columns
        self._follow(series)
        return self

    def predict(self, table: Any = None) -> Any:
        """The `horizon` rows after a table.

        Args:
            table: at least `lookback` rows with the columns of the fitted one; an array's first row is taken for
                the first of a cycle. None: what was fitted and observed, with the memory that has learned from
                all of it where the network can stream and was trained to (`TrainingConfig.context`).

        Returns:
            A DataFrame with dates if the table had dates, else an array ``[horizon, C]``.

        Raises:
            RuntimeError: before `fit`.
            ValueError: for a table that does not fit.
        """
        self._require_fitted("predict")
        if table is None:
            series, first_row = self._last, self._rows - len(self._last.values)
        else:
            series, first_row = self._read(table), 0
        if len(series.values) < self.lookback:
            raise ValueError(
                f"the table has {len(series.values)} rows, but a forecast sees lookback={self.lookback}"
            )
        phase = jnp.asarray(self._phases(series, first_row))
        if table is None and self._stream is not None and self.training.context:
            return self._output(_of_stream(self.model_, self._stream, phase[-1]), series)
        window = jnp.asarray(self.scaler_.apply(series.values[-self.lookback :]))
        first = phase[-self.lookback :][:1]
        return self._output(_of_window(self.model_, window, first), series)

    def observe(self, rows: Any) -> TitansForecaster:
        """Goes on with the rows that follow the last ones: the memory learns from them, the parameters stay.

        Args:
            rows: a table with the columns, and the dates that follow, of the fitted one.

        Raises:
            RuntimeError: before `fit`.
            ValueError: for rows that do not follow, or a network that cannot stream.
        """
        self._require_fitted("observe")
        if self._stream is None:
            self.model_.init_state(1)  # says what it needs
        series = self._read(rows, follows=self._last)
        joined = _joined(self._last, series)
        phase = self._phases(joined, self._rows - len(self._last.values))[-len(series.values) :]
        graph, parameters = nnx.split(self.model_)
        standardised = jnp.asarray(self.scaler_.apply(series.values))
        self._stream = observe(graph, parameters, self._stream, standardised, jnp.asarray(phase))
        self._last = _tail(joined, self._kept)
        self._rows += len(series.values)
        return self

    def save(self, path: str | os.PathLike) -> None:
        """Writes everything to one safetensors file, which is replaced at once or not at all.

        Args:
            path: the file, in a folder that exists.

        Raises:
            RuntimeError: before `fit`.
            ValueError: if the memory network is a function, which no file holds.
        """
        self._require_fitted("save")
        if callable(self.model_.config.memory.network):
            raise ValueError("a forecaster whose memory network is a function cannot be saved")
        tensors: dict[str, Any] = {
            f"model.{k}": v for k, v in named_parameters(self.model_).items()
        }
        tensors |= {"scaler.mean": self.scaler_.mean, "scaler.std": self.scaler_.std}
        tensors["last.values"] = self._last.values
        if self._last.dates is not None:
            tensors["last.dates"] = self._last.dates.astype(np.int64)
        if self._stream is not None:
            tensors |= _stream_leaves(self._stream)
        fitted = {
            "columns": self.columns_,
            "rows": self._rows,
            "errors": self.errors_,
            "network": dataclasses.asdict(self.model_.config),
            "arguments": {
                "season": self.season,
                "valid_fraction": self.valid_fraction,
                "missing": self.missing,
                "seed": self.seed,
            },
            "training": dataclasses.asdict(self.training),
        }
        with replacing(Path(path)) as (temporary,):
            write_tensors(temporary, tensors, {"format": FORMAT, "fitted": json.dumps(fitted)})

    @classmethod
    def load(cls, path: str | os.PathLike) -> TitansForecaster:
        """A fitted forecaster that `save` wrote; it goes on where that one stopped, bit for bit.

        Args:
            path: the file.

        Raises:
            FileNotFoundError: if there is no such file.
            ValueError: if it is damaged or no forecaster's.
        """
        path = Path(path)
        tensors, metadata = read_tensors(path)
        if metadata.get("format") != FORMAT:
            raise ValueError(
                f"{path} is not a forecaster: its format is {metadata.get('format')!r}, must be {FORMAT!r}"
            )
        fitted = json.loads(metadata["fitted"])
        fields = dict(fitted["network"])
        config = ForecasterConfig(**{**fields, "memory": MemoryConfig(**fields["memory"])})
        network = {k: getattr(config, k) for k in fields if k not in _DECIDED}
        self = cls(
            config.horizon,
            config.lookback,
            network=network,
            training=TrainingConfig(**fitted["training"]),
            **fitted["arguments"],
        )
        self.model_ = _restored(config, tensors, path)
        self.scaler_ = Standardiser(tensors["scaler.mean"], tensors["scaler.std"])
        self.columns_ = tuple(fitted["columns"])
        self.errors_ = None if fitted["errors"] is None else Errors(*fitted["errors"])
        dates = tensors.get("last.dates")
        dates = None if dates is None else dates.astype("datetime64[ns]")
        self._rows = fitted["rows"]
        self._last = Series(tensors["last.values"], self.columns_, dates)
        self._stream = _restored_stream(self.model_, tensors, path)
        return self

    @property
    def _kept(self) -> int:
        """Rows that are kept of the past."""
        return self.lookback + self.model_.config.stride

    def _config(self, variates: int, season: int) -> ForecasterConfig:
        return ForecasterConfig(
            lookback=self.lookback,
            horizon=self.horizon,
            variates=variates,
            season=season,
            **self.network,
        )

    def _require_fitted(self, method: str) -> None:
        if not hasattr(self, "model_"):
            raise RuntimeError(f"{method} needs a fitted forecaster: call fit first")

    def _follow(self, series: Series) -> None:
        """Lets the memory read the fitted table, where the network can."""
        self._last, self._rows = _tail(series, self._kept), len(series.values)
        self._stream = None
        config = self.model_.config
        if config.embedding == "patches" and not config.bidirectional:
            graph, parameters = nnx.split(self.model_)
            self._stream = observe(
                graph,
                parameters,
                start_stream(self.model_),
                jnp.asarray(self.scaler_.apply(series.values)),
                jnp.asarray(phases(series.dates, len(series.values), config.season)),
            )

    def _read(self, table: Any, follows: Series | None = None) -> Series:
        """A table with the fitted columns, checked; a last row to go on from fills what is missing first."""
        series = read_series(table, self.missing, None if follows is None else follows.values[-1])
        if series.columns != self.columns_:
            raise ValueError(
                f"the table's columns must be {list(self.columns_)}, got {list(series.columns)}"
            )
        if follows is None:
            return series
        if (series.dates is None) != (follows.dates is None):
            raise ValueError("the rows must have dates if and only if the fitted table had them")
        if series.dates is not None and follows.dates is not None:
            wanted = follows.dates[-1] + follows.interval
            if series.dates[0] != wanted:
                raise ValueError(
                    f"column 'date', row 0: {series.dates[0]} does not follow {follows.dates[-1]}: "
                    f"it must be {wanted}"
                )
            if len(series.dates) > 1 and series.interval != follows.interval:
                raise ValueError(
                    f"the rows are {series.interval} apart, the fitted ones {follows.interval}"
                )
        return series

    def _phases(self, series: Series, first_row: int) -> np.ndarray:
        """Row of the cycle at every row; without dates, rows are counted and `first_row` is the first's number."""
        season = self.model_.config.season
        if series.dates is not None or not season:
            return phases(series.dates, len(series.values), season)
        return phases(None, first_row + len(series.values), season)[first_row:]

    def _output(self, standardised: Any, series: Series) -> Any:
        values = self.scaler_.undo(np.asarray(standardised))
        if series.dates is None:
            return values
        import pandas as pd

        dates = series.dates[-1] + series.interval * np.arange(1, self.horizon + 1)
        return pd.DataFrame(values, pd.DatetimeIndex(dates, name="date"), list(self.columns_))


# Compiled once for every forecaster of a shape.
_of_stream = nnx.jit(forecast)


@nnx.jit
def _of_window(model: Forecaster, window: Any, phase: Any) -> Any:
    return model(window[None], phase)[0]


def _tail(series: Series, rows: int) -> Series:
    dates = None if series.dates is None else series.dates[-rows:]
    return Series(series.values[-rows:], series.columns, dates)


def _joined(first: Series, second: Series) -> Series:
    dates = None
    if first.dates is not None and second.dates is not None:
        dates = np.concatenate([first.dates, second.dates])
    return Series(np.concatenate([first.values, second.values]), first.columns, dates)


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
