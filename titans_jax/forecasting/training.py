"""Training a forecaster: epochs (titans_jax/epochs.py) over the windows of a series, early stopping.

Any NNX module that maps `(x [B L C], phase [B], key=..)` to `[B S C]` can be trained here: the Forecaster and
every baseline alike. The parameters that are kept, validated and tested are an exponential moving average of the
trained ones.
"""

from __future__ import annotations

import dataclasses
import functools
import time
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

from titans_jax import epochs
from titans_jax.fields import (
    below_one,
    check_fields,
    field,
    non_negative,
    non_negative_int,
    one_of,
    positive,
    positive_int,
)
from titans_jax.forecasting.windows import gather
from titans_jax.typing import Array, Float, Int, PyTree

Loss = Literal["mse", "mae", "both"]
Schedule = Literal["halving", "cosine"]
EVALUATION_BATCH = 128


@dataclasses.dataclass(frozen=True)
class TrainingConfig:
    """How a forecaster is trained.

    Attributes:
        loss: of standardised values: mean square, mean absolute, or the mean of both.
        learning_rate: of the first epoch.
        schedule: "halving" after every epoch, or "cosine" to zero over all epochs.
        batch_size: windows per step.
        epochs: at most.
        steps_per_epoch: at most; an epoch is a random part of the training windows where there are more.
            Windows that start one row apart differ in two rows, so few are lost.
        patience: epochs without a better validation error before training stops.
        weight_decay: of AdamW.
        clip: largest norm of a step's gradient.
        average: decay of the moving average of the parameters per step; 0 for none.
        context: patches that the memory reads before the look-back of every training window, for a forecaster that
            is to go on learning over a stream (streaming.py); 0 for the protocol, whose forecasts see the
            look-back alone. Validation sees the look-back alone in either case.
    """

    loss: Loss = field("both", one_of(Loss))
    learning_rate: float = field(3e-3, positive)
    schedule: Schedule = field("cosine", one_of(Schedule))
    batch_size: int = field(32, positive_int)
    epochs: int = field(20, positive_int)
    steps_per_epoch: int = field(264, positive_int)
    patience: int = field(5, positive_int)
    weight_decay: float = field(0.0, non_negative)
    clip: float = field(1.0, positive)
    average: float = field(0.995, below_one)
    context: int = field(0, non_negative_int)

    def __post_init__(self) -> None:
        check_fields(self)


class Errors(NamedTuple):
    """Errors of standardised values, means over all windows, rows and variates."""

    mse: float
    mae: float


class Progress(NamedTuple):
    """An epoch of a training.

    Attributes:
        epoch: its number, from 1.
        epochs: at most.
        loss: mean of its steps.
        errors: on the validation windows; None without them.
        best: whether it is the one to be kept so far.
        seconds: that it took; those of the first have compilation in them.
    """

    epoch: int
    epochs: int
    loss: float
    errors: Errors | None
    best: bool
    seconds: float

    def __str__(self) -> str:
        validation = ""
        if self.errors is not None:
            best = ", best so far" if self.best else ""
            validation = f", validation MSE {self.errors.mse:.4f}, MAE {self.errors.mae:.4f}{best}"
        return (
            f"epoch {self.epoch}/{self.epochs}: training loss {self.loss:.4f}{validation}, "
            f"{self.seconds:.1f} s"
        )


class Training(NamedTuple):
    """What training came to.

    Attributes:
        model: with the parameters of the best epoch.
        errors: on the validation windows after every epoch.
        best: index of the best epoch.
    """

    model: nnx.Module
    errors: list[Errors]
    best: int


def train(
    model: nnx.Module,
    config: TrainingConfig,
    series: Float[Array, "T C"],
    phase: Int[Array, "T"],
    train_starts: np.ndarray,
    valid_starts: np.ndarray,
    *,
    lookback: int,
    horizon: int,
    seed: int = 0,
    report: Callable[[Progress], None] | None = None,
) -> Training:
    """Trains until the validation error stops falling or the epochs are used up.

    Args:
        model: the forecaster, with its initial parameters.
        config: how.
        series: the standardised series.
        phase: row of the cycle at every row of the series.
        train_starts: first rows of the training windows.
        valid_starts: first rows of the validation windows; where there are none, all epochs are run and
            the last is kept.
        lookback: rows seen.
        horizon: rows predicted.
        seed: of the order of the windows and of dropout.
        report: is told of every epoch, after it.

    Returns:
        The model of the best epoch by mean square plus mean absolute error on validation.

    Raises:
        FloatingPointError: if the loss stops being finite.
    """
    generator = np.random.default_rng(seed)
    graph, parameters = nnx.split(model)
    if config.context:
        train_starts = _with_context(model, config, train_starts)
    batch = min(config.batch_size, len(train_starts))
    steps = min(config.steps_per_epoch, len(train_starts) // batch)
    epoch, optimizer = _compiled_epoch(graph, config, lookback, horizon, steps)
    key = jax.random.key(seed)

    def draw(index: int) -> tuple[Array, Array]:
        order = generator.permutation(train_starts)[: steps * batch].reshape(steps, batch)
        return jnp.asarray(order), jax.random.split(jax.random.fold_in(key, index), steps)

    def judge(state: epochs.State) -> tuple[float, Errors] | None:
        if not len(valid_starts):
            return None
        trained = nnx.merge(graph, state.average)
        errors = evaluate(trained, series, phase, valid_starts, lookback=lookback, horizon=horizon)
        return sum(errors), errors

    began = time.perf_counter()

    def told(index: int, loss: float, errors: Errors | None, best: bool) -> None:
        nonlocal began
        now = time.perf_counter()
        if report is not None:
            report(Progress(index + 1, config.epochs, loss, errors, best, now - began))
        began = now

    fitted = epochs.fit(
        parameters,
        None,
        optimizer.init(parameters),
        epoch,
        (series, phase),
        draw,
        judge,
        epochs=config.epochs,
        learning_rate=config.learning_rate,
        patience=config.patience,
        report=told,
    )
    return Training(nnx.merge(graph, fitted.state.average), fitted.judged, fitted.best)


def evaluate(
    model: nnx.Module,
    series: Float[Array, "T C"],
    phase: Int[Array, "T"],
    starts: np.ndarray,
    *,
    lookback: int,
    horizon: int,
) -> Errors:
    """Errors over every window of a part.

    Args:
        model: the forecaster.
        series: the standardised series.
        phase: row of the cycle at every row.
        starts: first rows of the windows.
        lookback: rows seen.
        horizon: rows predicted.
    """
    graph, parameters = nnx.split(model)
    size = min(EVALUATION_BATCH, len(starts))
    count = -(-len(starts) // size) * size
    padded = np.resize(starts, count).reshape(-1, size)
    valid = (np.arange(count) < len(starts)).reshape(-1, size)
    sums = _compiled_evaluation(graph, lookback, horizon)(
        parameters, series, phase, jnp.asarray(padded), jnp.asarray(valid)
    )
    squared, absolute = (np.asarray(total, np.float64).sum() for total in sums)
    values = len(starts) * horizon * series.shape[1]
    return Errors(float(squared / values), float(absolute / values))


def loss_of(error: Float[Array, "..."], kind: Loss) -> Float[Array, ""]:
    """The training loss of forecasts' errors."""
    squared, absolute = jnp.mean(jnp.square(error)), jnp.mean(jnp.abs(error))
    return {"mse": squared, "mae": absolute, "both": 0.5 * (squared + absolute)}[kind]


@functools.lru_cache(maxsize=16)
def _compiled_epoch(
    graph: Any, config: TrainingConfig, lookback: int, horizon: int, steps: int
) -> tuple[epochs.Epoch, optax.GradientTransformation]:
    """One epoch as a compiled function, kept so that other seeds of the same model need not compile."""
    rate: optax.Schedule
    if config.schedule == "cosine":
        rate = optax.cosine_decay_schedule(config.learning_rate, config.epochs * steps)
    else:
        rate = optax.exponential_decay(config.learning_rate, steps, 0.5, staircase=True)
    optimizer = optax.chain(
        optax.clip_by_global_norm(config.clip), optax.adamw(rate, weight_decay=config.weight_decay)
    )

    def loss(parameters: PyTree, other: None, data: Any, drawn: Any) -> tuple[Array, None]:
        (series, phase), (starts, key) = data, drawn
        rows = gather(series, starts, lookback + horizon)
        model = nnx.merge(graph, parameters)
        before = (
            {"state": _read_context(model, config, series, phase, starts)} if config.context else {}
        )
        forecast = model(rows[:, :lookback], phase[starts], key=key, **before)
        return loss_of(forecast - rows[:, lookback:], config.loss), other

    return epochs.make_epoch(loss, optimizer, config.average), optimizer


def _with_context(model: Any, config: TrainingConfig, starts: np.ndarray) -> np.ndarray:
    """The windows that have rows enough before them."""
    before = config.context * model.config.stride
    kept = starts[starts >= before]
    if not len(kept):
        raise ValueError(
            f"context={config.context} patches are {before} rows before a window, but the last training window "
            f"starts at row {int(starts[-1])}: use a longer series or a smaller context"
        )
    return kept


def _read_context(
    model: Any,
    config: TrainingConfig,
    series: Float[Array, "T C"],
    phase: Int[Array, "T"],
    starts: Int[Array, "B"],
) -> tuple[Any, ...]:
    """The memories after the patches before each window."""
    shape, stride = model.config, model.config.stride
    offsets = stride * jnp.arange(-config.context, 0, dtype=jnp.int32)
    first = starts[:, None] + offsets  # [B, N]
    windows = gather(series, first.reshape(-1), shape.lookback)
    windows = windows.reshape(*first.shape, *windows.shape[1:])
    return model.read(windows, phase[first], model.init_state(len(starts) * shape.variates))


@functools.lru_cache(maxsize=16)
def _compiled_evaluation(graph: Any, lookback: int, horizon: int) -> Any:
    @jax.jit
    def sums(parameters, series, phase, starts, valid):
        def batch(_, inputs):
            first, counted = inputs
            rows = gather(series, first, lookback + horizon)
            error = nnx.merge(graph, parameters)(rows[:, :lookback], phase[first])
            error = jnp.where(counted[:, None, None], error - rows[:, lookback:], 0)
            return None, (jnp.sum(jnp.square(error)), jnp.sum(jnp.abs(error)))

        return jax.lax.scan(batch, None, (starts, valid))[1]

    return sums
