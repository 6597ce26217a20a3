"""Every model of the comparison: how it is built and trained, and the candidates among which validation chooses.

One recipe for all data sets and horizons. A model has a few candidates; each is trained with the first seed, the one
with the least validation error is trained with the other seeds, and only it is tested. Nothing else is tuned.

* "DLinear" and "RLinear" are trained as published (mean square error, Adam, the rate halved after every epoch, ten
  epochs, no averaging); the rate is chosen as in the published searches. They prove the protocol. An epoch is at most
  the 264 steps that ETTh1 has.
* All others, "RLinear+" among them, share one way of training: mean of square and absolute error, cosine, at most 20
  epochs of as many steps, a moving average of the parameters. So whatever the loss brings, it brings to all.
* "RLinear+cycle" has the learned cycle of the memory forecaster too, and "LMM-frozen" all of it but the writing of the
  memory: what the cycle, the network and the memory's learning bring, one after the other.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, NamedTuple

from flax import nnx

from experiments.time_series.baselines import AttentionForecaster, DLinear, FrozenMemory, RLinear
from experiments.time_series.datasets import Dataset
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
    steps_per_epoch=264,
)
#: The library's defaults, which are those of this comparison.
SHARED = TrainingConfig()


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
    season: Callable[[Dataset], int]


def day(data: Dataset) -> int:
    """A cycle of a day."""
    return data.day


def no_cycle(data: Dataset) -> int:
    """No cycle."""
    del data
    return 0


def rates(
    model: Any,
    training: TrainingConfig,
    *learning_rates: float,
    season: Callable[[Dataset], int] = no_cycle,
) -> tuple[Candidate, ...]:
    """A model at several learning rates."""

    def build(data: Dataset, horizon: int, rngs: nnx.Rngs) -> nnx.Module:
        cycle = {"season": season(data), "variates": len(data.columns)} if season(data) else {}
        return model(LOOKBACK, horizon, rngs=rngs, **cycle)

    return tuple(
        Candidate(
            f"rate {rate:g}", build, dataclasses.replace(training, learning_rate=rate), season
        )
        for rate in learning_rates
    )


def attention(inverted: bool, *learning_rates: float) -> tuple[Candidate, ...]:
    """A transformer at several learning rates, at a size that is usual for small data sets."""
    dim = 64 if inverted else 32
    model = functools.partial(
        AttentionForecaster,
        inverted=inverted,
        dim=dim,
        num_layers=2,
        num_heads=4,
        hidden=2 * dim,
        rate=0.2,
    )
    return rates(model, SHARED, *learning_rates)


def titans(mixer: Mixer, *, frozen: bool = False) -> tuple[Candidate, ...]:
    """A memory forecaster over patches, small and with much dropout, and over variates, larger and with less."""
    kinds: dict[str, tuple[dict[str, Any], float]] = {
        "patches": ({}, 3e-3),  # the library's defaults
        "variates": (
            {"embedding": "variates", "bidirectional": True, "dim": 64, "dropout": 0.2},
            2e-3,
        ),
    }

    def candidate(name: str, fields: dict[str, Any], rate: float) -> Candidate:
        def build(data: Dataset, horizon: int, rngs: nnx.Rngs) -> nnx.Module:
            config = ForecasterConfig(
                lookback=LOOKBACK,
                horizon=horizon,
                variates=len(data.columns),
                season=data.day,
                mixer=mixer,
                **fields,
            )
            forecaster = Forecaster(config, rngs=rngs)
            return FrozenMemory(forecaster) if frozen else forecaster

        return Candidate(name, build, dataclasses.replace(SHARED, learning_rate=rate), day)

    return tuple(candidate(name, *kind) for name, kind in kinds.items())


#: Candidates of every model by the name in the tables.
MODELS: dict[str, tuple[Candidate, ...]] = {
    "DLinear": rates(DLinear, AS_PUBLISHED, 1e-3, 5e-3),
    "RLinear": rates(RLinear, AS_PUBLISHED, 1e-3, 5e-3),
    "RLinear+": rates(RLinear, SHARED, 1e-3, 5e-3),
    "RLinear+cycle": rates(RLinear, SHARED, 1e-3, 5e-3, season=day),
    "LMM": titans("lmm"),
    "LMM-frozen": titans("lmm", frozen=True),
    "iTransformer-style": attention(True, 3e-4, 1e-3),
    "PatchTST-style": attention(False, 3e-4, 1e-3),
    "MAG": titans("mag"),
    "MAC": titans("mac"),
}
