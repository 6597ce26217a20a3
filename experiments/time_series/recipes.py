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


def memory_forecaster(
    lookback: int, horizon: int, *, frozen: bool, rngs: nnx.Rngs, **fields: Any
) -> nnx.Module:
    """The library's forecaster, with a memory that may never be written."""
    config = ForecasterConfig(lookback=lookback, horizon=horizon, **fields)
    forecaster = Forecaster(config, rngs=rngs)
    return FrozenMemory(forecaster) if frozen else forecaster


BUILDERS: dict[str, Callable[..., nnx.Module]] = {
    "dlinear": DLinear,
    "rlinear": RLinear,
    "attention": AttentionForecaster,
    "memory": memory_forecaster,
}


class Candidate(NamedTuple):
    """One way to build and train a model.

    Attributes:
        name: what tells it from the model's other candidates.
        builder: of `BUILDERS`.
        fields: that the builder is given.
        training: how it is trained.
        cyclic: whether it has a cycle of a day, where the data have one.
    """

    name: str
    builder: str
    fields: dict[str, Any]
    training: TrainingConfig
    cyclic: bool = False

    def build(self, data: Dataset, horizon: int, rngs: nnx.Rngs) -> nnx.Module:
        """The model with its initial values."""
        season = {"season": self.season(data), "variates": len(data.columns)} if self.cyclic else {}
        return BUILDERS[self.builder](LOOKBACK, horizon, rngs=rngs, **self.fields, **season)

    def season(self, data: Dataset) -> int:
        """Rows of its cycle; 0 for none."""
        return data.day if self.cyclic else 0


def rates(
    builder: str,
    training: TrainingConfig,
    *learning_rates: float,
    cyclic: bool = False,
    **fields: Any,
) -> tuple[Candidate, ...]:
    """A model at several learning rates."""
    return tuple(
        Candidate(
            f"rate {rate:g}",
            builder,
            fields,
            dataclasses.replace(training, learning_rate=rate),
            cyclic,
        )
        for rate in learning_rates
    )


def attention(inverted: bool) -> tuple[Candidate, ...]:
    """A transformer at a size that is usual for small data sets."""
    dim = 64 if inverted else 32
    size: dict[str, Any] = {
        "dim": dim,
        "num_layers": 2,
        "num_heads": 4,
        "hidden": 2 * dim,
        "rate": 0.2,
    }
    return rates("attention", SHARED, 3e-4, 1e-3, inverted=inverted, **size)


def titans(mixer: Mixer, *, frozen: bool = False) -> tuple[Candidate, ...]:
    """A memory forecaster over patches, small and with much dropout, and over variates, larger and with less."""
    kinds: dict[str, tuple[dict[str, Any], float]] = {
        "patches": ({}, 3e-3),  # the library's defaults
        "variates": (
            {"embedding": "variates", "bidirectional": True, "dim": 64, "dropout": 0.2},
            2e-3,
        ),
    }
    return tuple(
        Candidate(
            name,
            "memory",
            {"mixer": mixer, "frozen": frozen, **fields},
            dataclasses.replace(SHARED, learning_rate=rate),
            cyclic=True,
        )
        for name, (fields, rate) in kinds.items()
    )


#: Candidates of every model by the name in the tables.
MODELS: dict[str, tuple[Candidate, ...]] = {
    "DLinear": rates("dlinear", AS_PUBLISHED, 1e-3, 5e-3),
    "RLinear": rates("rlinear", AS_PUBLISHED, 1e-3, 5e-3),
    "RLinear+": rates("rlinear", SHARED, 1e-3, 5e-3),
    "RLinear+cycle": rates("rlinear", SHARED, 1e-3, 5e-3, cyclic=True),
    "LMM": titans("lmm"),
    "LMM-frozen": titans("lmm", frozen=True),
    "iTransformer-style": attention(inverted=True),
    "PatchTST-style": attention(inverted=False),
    "MAG": titans("mag"),
    "MAC": titans("mac"),
}
