"""`TitansForecaster`: fit, predict, observe, save, load on a table, in the manner of scikit-learn."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Hashable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
from flax import nnx

from titans_jax.fields import (
    below_one,
    instance_of,
    non_negative_int,
    one_of,
    optional,
    positive_int,
    random_seed,
    require,
    whole,
)
from titans_jax.forecasting.saving import Fitted, read_fitted, write_fitted
from titans_jax.forecasting.scaling import Standardiser, standardiser
from titans_jax.forecasting.streaming import Stream, forecast, observe, start_stream
from titans_jax.forecasting.table import Missing, Series, cycle_rows, phases, read_series
from titans_jax.forecasting.training import Errors, Progress, TrainingConfig, train
from titans_jax.forecasting.windows import Parts, window_starts
from titans_jax.models.forecaster import Forecaster, ForecasterConfig

#: Fields of ForecasterConfig that the table or other arguments decide.
_DECIDED = ("lookback", "horizon", "variates", "season")


class TitansForecaster:
    """Forecasts every column of a table by a neural memory.

    Example:
        >>> forecaster = TitansForecaster(horizon=96).fit(table)   # a DataFrame with dates, or an array
        >>> forecaster.predict()                    # the 96 rows after the table
        >>> forecaster.predict(other_table)         # the 96 rows after another table's last
        >>> forecaster.observe(new_rows).predict()  # online: the memory has learned from the new rows
        >>> forecaster.plot()                       # the last rows and the forecast
        >>> forecaster.save("forecaster.safetensors")
        >>> TitansForecaster.load("forecaster.safetensors").predict()

    After `fit`: `errors_` (MSE and MAE of standardised values on the validation part, None without one),
    `columns_`, `model_` and `scaler_`.
    """

    model_: Forecaster
    scaler_: Standardiser
    errors_: Errors | None
    columns_: tuple[Hashable, ...]
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
        verbose: int = 0,
    ):
        """Sets what `fit` does; nothing is computed.

        Args:
            horizon: rows to predict.
            lookback: rows that a forecast sees.
            season: rows of the learned cycle; 0 for none. None: a day, five business days, or a year of months, where
                dates tell and the training rows hold it twice; else none.
            valid_fraction: part of the rows, the last ones, that chooses the epoch; 0 for none.
            missing: "raise" at missing values and rows, or "ffill" with the last value seen.
            network: other fields of `ForecasterConfig`. Without `patch` and `stride`, patches fit the look-back.
            training: see `TrainingConfig`. Its `context` must be above 0 for a memory that gains by `observe`.
            seed: of parameters, order and dropout.
            verbose: 0 for silence, 1 for a line after every epoch of `fit`: losses, and seconds with compilation.

        Raises:
            ValueError: naming the argument that does not fit.
        """
        horizon, lookback = positive_int("horizon", horizon), positive_int("lookback", lookback)
        season = optional(whole("an integer, 0 for none", 0))("season", season)
        valid_fraction = below_one("valid_fraction", valid_fraction)
        seed, missing = random_seed("seed", seed), one_of(Missing)("missing", missing)
        verbose = non_negative_int(
            "verbose", int(verbose) if isinstance(verbose, bool) else verbose
        )
        training = optional(instance_of(TrainingConfig))("training", training)
        network = optional(instance_of(Mapping))("network", network)
        network = dict(network or {})
        known = {f.name for f in dataclasses.fields(ForecasterConfig)} - set(_DECIDED)
        unknown = sorted(set(network) - known)
        require(not unknown, "network", unknown, f"of the fields {sorted(known)}")
        self.horizon, self.lookback, self.season = horizon, lookback, season
        self.valid_fraction, self.missing, self.network = valid_fraction, missing, network
        self.training, self.seed, self.verbose = training or TrainingConfig(), seed, verbose
        self._config(variates=1, season=0)  # refuses what does not fit before there is any data

    def fit(self, table: Any) -> TitansForecaster:
        """Trains on a table; an earlier fit is forgotten.

        Args:
            table: see `read_series`.

        Raises:
            TypeError, ValueError: for a table that cannot be taken, naming column and row; for one too short, also
                for `season`.
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
        season = self._season(series, first_valid)
        model = Forecaster(
            self._config(variates=len(series.columns), season=season), rngs=nnx.Rngs(self.seed)
        )
        self.scaler_ = standardiser(series.values[:first_valid])
        result = train(
            model,
            self.training,
            jnp.asarray(self.scaler_.apply(series.values)),
            jnp.asarray(phases(series.dated, rows, season)),
            starts.train,
            starts.valid,
            lookback=self.lookback,
            horizon=self.horizon,
            seed=self.seed,
            report=_print if self.verbose else None,
        )
        self.model_ = result.model  # type: ignore[assignment]
        self.errors_ = result.errors[result.best] if result.errors else None
        self.columns_ = series.columns
        self._follow(series)
        return self

    def predict(self, table: Any = None) -> Any:
        """The `horizon` rows after a table.

        Args:
            table: at least `lookback` rows with the columns, and the step, of the fitted one; an array's first row is
                taken for the first of a cycle. None: what was fitted and observed, with the memory that has learned
                from all of it where the network can stream and was trained to (`TrainingConfig.context`).

        Returns:
            A DataFrame with the labels and dates that follow, in the table's time zone, if the table had dates, else
            an array ``[horizon, C]``.

        Raises:
            RuntimeError: before `fit`.
            ValueError: for a table that does not fit.
        """
        series, values = self._forecast("predict", table)
        if series.dated is None:
            return values
        from titans_jax.forecasting.calendar import dates_after
        from titans_jax.forecasting.frame import to_frame

        return to_frame(values, series, dates_after(series.dated, self.horizon))

    def plot(
        self, table: Any = None, truth: Any = None, *, columns: Sequence[Hashable] | None = None
    ) -> Any:
        """Draws the last rows, their forecast and, if there is one, the truth: a panel for each column.

        Args:
            table: as for `predict`.
            truth: the rows that follow, or the first of them: a table like the fitted one.
            columns: labels of the columns to draw; None for all, where they are few.

        Returns:
            The panels, an array of matplotlib's Axes; ``axes[0].figure.savefig("forecast.png")`` keeps them.

        Raises:
            ImportError: without matplotlib.
            RuntimeError: before `fit`.
            ValueError: for a table, a truth or columns that do not fit.
        """
        from titans_jax.forecasting.plotting import draw

        series, values = self._forecast("plot", table)
        follows = None
        if truth is not None:
            follows = read_series(truth, self.missing, like=series, follows=True)
        return draw(series.tail(self._kept), values, follows, columns)

    def observe(self, rows: Any) -> TitansForecaster:
        """Goes on with the rows that follow the last ones: the memory learns from them, the parameters stay.

        Args:
            rows: a table with the columns, and the dates that follow, of the fitted one. Rows missing before its first
                are as any other missing rows.

        Raises:
            RuntimeError: before `fit`.
            ValueError: for rows that do not follow, or a network that cannot stream.
        """
        self._require_fitted("observe")
        if self._stream is None:
            self.model_.init_state(1)  # says what it needs
        series = read_series(rows, self.missing, like=self._last, follows=True)
        phase = self._phases(series, self._rows)
        graph, parameters = nnx.split(self.model_)
        standardised = jnp.asarray(self.scaler_.apply(series.values))
        self._stream = observe(graph, parameters, self._stream, standardised, jnp.asarray(phase))
        self._last = self._last.then(series).tail(self._kept)
        self._rows += len(series.values)
        return self

    def save(self, path: str | os.PathLike) -> None:
        """Writes everything to one safetensors file, which is replaced at once or not at all.

        Args:
            path: the file, in a folder that exists; "~" is the home folder.

        Raises:
            RuntimeError: before `fit`.
            ValueError: if the memory network is a function, or a label or time zone is one that no file holds.
        """
        self._require_fitted("save")
        names = ("season", "valid_fraction", "missing", "seed")
        fitted = Fitted(
            model=self.model_,
            scaler=self.scaler_,
            last=self._last,
            rows=self._rows,
            stream=self._stream,
            errors=self.errors_,
            training=self.training,
            arguments={name: getattr(self, name) for name in names},
        )
        write_fitted(Path(path), fitted)

    @classmethod
    def load(cls, path: str | os.PathLike) -> TitansForecaster:
        """A fitted forecaster that `save` wrote; it goes on where that one stopped, bit for bit.

        Args:
            path: the file; "~" is the home folder.

        Raises:
            FileNotFoundError: if there is no such file.
            ValueError: if it is damaged or no forecaster's.
        """
        fitted = read_fitted(Path(path))
        config = fitted.model.config
        fields = (field.name for field in dataclasses.fields(config))
        self = cls(
            config.horizon,
            config.lookback,
            network={name: getattr(config, name) for name in fields if name not in _DECIDED},
            training=fitted.training,
            **fitted.arguments,
        )
        self.model_, self.scaler_, self.errors_ = fitted.model, fitted.scaler, fitted.errors
        self.columns_ = fitted.last.columns
        self._last, self._rows, self._stream = fitted.last, fitted.rows, fitted.stream
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

    def _season(self, series: Series, training_rows: int) -> int:
        """Rows of the learned cycle of a table."""
        if self.season is None:
            rows = cycle_rows(series)
            return rows if 2 * rows <= training_rows else 0  # what is seen once is no cycle
        most = f"at most the {training_rows} rows of the training part"
        require(self.season <= training_rows, "season", self.season, most)
        return self.season

    def _follow(self, series: Series) -> None:
        """Lets the memory read the fitted table, where the network can."""
        self._last, self._rows = series.tail(self._kept), len(series.values)
        self._stream = None
        config = self.model_.config
        if config.embedding == "patches" and not config.bidirectional:
            graph, parameters = nnx.split(self.model_)
            self._stream = observe(
                graph,
                parameters,
                start_stream(self.model_),
                jnp.asarray(self.scaler_.apply(series.values)),
                jnp.asarray(self._phases(series, 0)),
            )

    def _forecast(self, method: str, table: Any) -> tuple[Series, np.ndarray]:
        """A table, or the last rows, and the rows that follow in the table's units."""
        self._require_fitted(method)
        if table is None:
            series, first_row = self._last, self._rows - len(self._last.values)
        else:
            series, first_row = read_series(table, self.missing, like=self._last), 0
        if len(series.values) < self.lookback:
            raise ValueError(
                f"the table has {len(series.values)} rows, but a forecast sees lookback={self.lookback}"
            )
        phase = jnp.asarray(self._phases(series, first_row))
        if table is None and self._stream is not None and self.training.context:
            standardised = _of_stream(self.model_, self._stream, phase[-1])
        else:
            window = jnp.asarray(self.scaler_.apply(series.values[-self.lookback :]))
            standardised = _of_window(self.model_, window, phase[-self.lookback :][:1])
        return series, self.scaler_.undo(np.asarray(standardised))

    def _phases(self, series: Series, first_row: int) -> np.ndarray:
        """Row of the cycle at every row: from dates where the fitted table had them too, else counted."""
        dated = None if self._last.dated is None else series.dated
        return phases(dated, len(series.values), self.model_.config.season, first_row)


# Compiled once for every forecaster of a shape.
_of_stream = nnx.jit(forecast)


@nnx.jit
def _of_window(model: Forecaster, window: Any, phase: Any) -> Any:
    return model(window[None], phase)[0]


def _print(epoch: Progress) -> None:
    print(epoch, flush=True)
