"""Online mode: the memory keeps learning as rows arrive, one at a time.

A window moves on by one row, a memory by one patch of `stride` rows. So there are `stride` streams: the window at
row t belongs to stream t mod stride, whose memory has read the patches at t - stride, t - 2 stride, .. since the
stream's start. When row n arrives, the window that ends with it is forecast from its stream's memory, and the
window `stride` rows before it, all of whose rows are known, is written into that memory. No forecast depends on a
row that had not arrived when it was made.
"""

from __future__ import annotations

import functools
from typing import Any, Literal, NamedTuple, get_args

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from titans_jax.fields import require
from titans_jax.forecasting.training import Errors
from titans_jax.models.forecaster import Forecaster
from titans_jax.registry import registered
from titans_jax.typing import Array, Float, Int, PyTree

#: "learning": over the whole stream. "window": in the look-back alone, as in the protocol. "frozen": not at all.
#: "stopped": over the stream up to the first forecast, then no more.
OnlineMode = Literal["learning", "stopped", "window", "frozen"]


@registered
class Stream(NamedTuple):
    """All that the next row needs of those before it.

    Attributes:
        memories: state of the forecaster's blocks, ``[stride, C, ...]``.
        rows: the last ``lookback + stride`` standardised rows; zeros before the first.
        arrived: rows so far.
    """

    memories: PyTree
    rows: Float[Array, "R C"]
    arrived: Int[Array, ""]


def start_stream(model: Forecaster) -> Stream:
    """The stream before its first row.

    Args:
        model: the forecaster, of patches in one direction.
    """
    config = model.config
    one = model.init_state(config.variates)
    memories = jax.tree.map(lambda leaf: jnp.broadcast_to(leaf, (config.stride, *leaf.shape)), one)
    rows = jnp.zeros((config.lookback + config.stride, config.variates), jnp.float32)
    return Stream(memories, rows, jnp.zeros((), jnp.int32))


def arrive(
    model: Forecaster,
    stream: Stream,
    row: Float[Array, "C"],
    phase: Int[Array, ""],
    learn: Array | bool = True,
) -> Stream:
    """The stream after one more row.

    Args:
        model: the forecaster.
        stream: before the row.
        row: standardised values.
        phase: row of the cycle at this row.
        learn: whether the memory is written; else it stays as it is.
    """
    config = model.config
    rows = jnp.concatenate([stream.rows[1:], row[None]])
    arrived = stream.arrived + 1
    # The oldest rows held: the window `stride` rows before the one that ends here.
    opening = _cycle(config.season, phase - (config.lookback + config.stride - 1))
    place = _place(config, arrived)
    before = jax.tree.map(lambda leaf: leaf[place], stream.memories)
    after = model.read(rows[None, None, : config.lookback], opening[None, None], before)
    write = (arrived >= len(rows)) & learn
    memories = jax.tree.map(
        lambda all_, old, new: all_.at[place].set(jnp.where(write, new, old)),
        stream.memories,
        before,
        after,
    )
    return Stream(memories, rows, arrived)


def forecast(
    model: Forecaster, stream: Stream, phase: Int[Array, ""], mode: OnlineMode = "learning"
) -> Float[Array, "S C"]:
    """Forecasts the standardised rows after the last that has arrived, of which there must be a look-back.

    Args:
        model: the forecaster.
        stream: after the last row.
        phase: row of the cycle at the last row.
        mode: what the memory is that is read.
    """
    config = model.config
    place = _place(config, stream.arrived)
    state = None
    if mode in ("learning", "stopped"):
        state = jax.tree.map(lambda leaf: leaf[place], stream.memories)
    opening = _cycle(config.season, phase - (config.lookback - 1))
    window = stream.rows[None, config.stride :]
    return model(window, opening[None], state=state, freeze_memory=mode == "frozen")[0]


def online_errors(
    model: Forecaster,
    series: Float[Array, "T C"],
    phase: Int[Array, "T"],
    starts: np.ndarray,
    mode: OnlineMode,
) -> Errors:
    """Errors over consecutive windows, each forecast when its last look-back row has arrived.

    Args:
        model: the forecaster.
        series: the standardised series; the stream starts at its first row.
        phase: row of the cycle at every row.
        starts: first rows of the windows, one row apart.
        mode: see `OnlineMode`.

    Raises:
        ValueError: for starts that are not one row apart, or an unknown mode.
    """
    require(mode in get_args(OnlineMode), "mode", mode, f"one of {get_args(OnlineMode)}")
    if not len(starts) or (np.diff(starts) != 1).any():
        raise ValueError("starts must be rows in order, one apart")
    graph, parameters = nnx.split(model)
    lookback = model.config.lookback
    first, end = int(starts[0]) + lookback, int(starts[-1]) + lookback
    sums = _compiled_errors(graph, first, end, mode)(parameters, series, phase)
    values = len(starts) * model.config.horizon * series.shape[1]
    squared, absolute = (float(np.asarray(x, np.float64).sum() / values) for x in sums)
    return Errors(squared, absolute)


@functools.partial(jax.jit, static_argnums=0)
def observe(
    graph: Any,
    parameters: PyTree,
    stream: Stream,
    rows: Float[Array, "T C"],
    phase: Int[Array, "T"],
) -> Stream:
    """The stream after many rows, compiled; `graph` and `parameters` are the split forecaster."""

    def step(stream, inputs):
        return arrive(nnx.merge(graph, parameters), stream, *inputs), None

    return jax.lax.scan(step, stream, (rows, phase))[0]


@functools.lru_cache(maxsize=16)
def _compiled_errors(graph: Any, first: int, end: int, mode: OnlineMode) -> Any:
    """Sums of squared and absolute errors of the forecasts made after row `first` - 1, .., `end` - 1."""
    streams = mode in ("learning", "stopped")

    @jax.jit
    def errors(parameters, series, phase):
        model = nnx.merge(graph, parameters)
        config = model.config
        # Where the memory does not matter, a look-back's rows are all the stream that is needed.
        begin = 0 if streams else first - config.lookback

        def read(stream, inputs):
            row, row_phase = inputs
            return arrive(model, stream, row, row_phase, learn=streams), None

        def step(stream, inputs):
            row, row_phase, following = inputs
            stream = arrive(model, stream, row, row_phase, learn=mode == "learning")
            future = jax.lax.dynamic_slice_in_dim(series, following, config.horizon)
            error = forecast(model, stream, row_phase, mode) - future
            return stream, (jnp.sum(jnp.square(error)), jnp.sum(jnp.abs(error)))

        before = (series[begin : first - 1], phase[begin : first - 1])
        stream = jax.lax.scan(read, start_stream(model), before)[0]
        following = jnp.arange(first, end + 1, dtype=jnp.int32)
        made = (series[first - 1 : end], phase[first - 1 : end], following)
        return jax.lax.scan(step, stream, made)[1]

    return errors


def _place(config: Any, arrived: Int[Array, ""]) -> Int[Array, ""]:
    """The stream of the window that ends with the last row."""
    return (arrived - config.lookback) % config.stride


def _cycle(season: int, phase: Int[Array, ""]) -> Int[Array, ""]:
    return phase % season if season else jnp.zeros_like(phase)
