"""Every model of the comparison: how it is built and trained, and the candidates among which validation chooses.

One recipe for all data sets and horizons. A model has a few candidates; each is trained with the first seed, the one
with the least validation error is trained with the other seeds, and only it is tested. Nothing else is tuned.

* "DLinear" and "RLinear" are trained as published (mean square error, Adam, the rate halved after every epoch, ten
  epochs, no averaging); the rate is chosen as in the published searches. They prove the protocol.
* All others, the linear ones with a + among them, share one way of training: mean of square and absolute error,
  cosine, short epochs, a moving average of the parameters. So whatever the loss brings, it brings to all.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, NamedTuple

from flax import nnx

from experiments.time_series.baselines import AttentionForecaster, DLinear, RLinear
from experiments.time_series.datasets import Dataset
from titans_jax import MemoryConfig
from titans_jax.forecasting import Forecaster, ForecasterConfig, TrainingConfig
from titans_jax.models.forecaster import Mixer

LOOKBACK = 96

AS_PUBLISHED = TrainingConfig(
    loss="mse",
    schedule="halving",
    clip=1e9,
    average=0.0,
    epochs=10,
    patience=3,
    steps_per_epoch=10_000,
)
SHARED = TrainingConfig(
    loss="both", learning_rate=3e-3, epochs=30, steps_per_epoch=88, patience=8, average=0.995
)
#: The memory: linear, learning at every token (Eq. 12-14 with b = 1).
MEMORY = MemoryConfig(num_heads=2, depth=1, chunk=1, conv_width=0)


class Candidate(NamedTuple):
    """One way to build and train a model.

    Attributes:
        name: what tells it from the model's other candidates.
        build: makes the model for a data set, a horizon and a source of initial values.
        training: how it is trained.
        season: rows of its cycle, of a day's; 0 for none.
    """

    name: str
    build: Callable[[Dataset, int, nnx.Rngs], nnx.Module]
    training: TrainingConfig
    season: Callable[[Dataset], int] = lambda data: 0


def rates(model: Any, training: TrainingConfig, *learning_rates: float) -> tuple[Candidate, ...]:
    """A linear model at several learning rates."""

    def build(data: Dataset, horizon: int, rngs: nnx.Rngs) -> nnx.Module:
        return model(LOOKBACK, horizon, rngs=rngs)

    return tuple(
        Candidate(f"rate {rate:g}", build, dataclasses.replace(training, learning_rate=rate))
        for rate in learning_rates
    )


def attention(inverted: bool, *learning_rates: float) -> tuple[Candidate, ...]:
    """A transformer at several learning rates, at the size that is usual for small data sets."""
    model = functools.partial(
        AttentionForecaster,
        inverted=inverted,
        dim=64,
        num_layers=2,
        num_heads=4,
        hidden=128,
        rate=0.2,
    )
    return rates(model, SHARED, *learning_rates)


def day(data: Dataset) -> int:
    """A cycle of a day."""
    return data.day


def titans(mixer: Mixer, **fields: Any) -> tuple[Candidate, ...]:
    """A memory forecaster over patches and over variates."""
    sizes: dict[str, dict[str, Any]] = {
        "patches": {"embedding": "patches"},
        "variates": {"embedding": "variates", "bidirectional": True, "dim": 64},
    }

    def candidate(name: str) -> Candidate:
        def build(data: Dataset, horizon: int, rngs: nnx.Rngs) -> nnx.Module:
            config = ForecasterConfig(
                lookback=LOOKBACK,
                horizon=horizon,
                variates=len(data.columns),
                season=data.day,
                mixer=mixer,
                memory=MEMORY,
                **{**sizes[name], **fields},
            )
            return Forecaster(config, rngs=rngs)

        return Candidate(name, build, SHARED, day)

    return tuple(candidate(name) for name in sizes)


#: Candidates of every model by the name in the tables.
MODELS: dict[str, tuple[Candidate, ...]] = {
    "DLinear": rates(DLinear, AS_PUBLISHED, 1e-3, 5e-3),
    "RLinear": rates(RLinear, AS_PUBLISHED, 1e-3, 5e-3),
    "LMM": titans("lmm"),
    "DLinear+": rates(DLinear, SHARED, 1e-3, 5e-3),
    "RLinear+": rates(RLinear, SHARED, 1e-3, 5e-3),
    "PatchTST-style": attention(False, 3e-4, 1e-3),
    "iTransformer-style": attention(True, 3e-4, 1e-3),
    "MAG": titans("mag"),
    "MAC": titans("mac"),
}
