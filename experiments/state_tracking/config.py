"""Configuration of the state-tracking experiment, and its models."""

import dataclasses
from typing import Any

from experiments.comparison import StudyConfig
from experiments.language_modeling.models import KNOWN, named
from experiments.state_tracking.groups import GROUPS
from experiments.state_tracking.task import StateTrackingConfig
from titans_jax import TitansConfig
from titans_jax.fields import check_fields, field, instance_of, one_of, require, several
from titans_jax.matching import match_parameters

#: LMMs other than the base: without momentum, with a deep memory, and with more layers.
NO_MOMENTUM, DEEP_MEMORY, MORE_LAYERS = "lmm_no_momentum", "lmm_depth2", "lmm_layers2"


@dataclasses.dataclass(frozen=True)
class StateTrackingExperiment:
    """Everything that decides the experiment.

    Attributes:
      groups: of `groups.GROUPS`; one study each.
      models: variants of `TitansConfig`, "lmm_no_momentum", "lmm_depth2" or "lmm_layers2".
      model: what all share, an LMM whose memory has chunk 1; its vocabulary is replaced.
      task: see StateTrackingConfig.
      study: see StudyConfig.
    """

    groups: tuple[str, ...] = field(GROUPS, several(one_of(GROUPS)))
    models: tuple[str, ...] = field(
        ("lmm", NO_MOMENTUM, DEEP_MEMORY, "transformer", "mamba2", "deltanet", "gated_deltanet"),
        several(one_of((*KNOWN, NO_MOMENTUM, DEEP_MEMORY, MORE_LAYERS))),
    )
    model: TitansConfig = field(TitansConfig(variant="lmm"), instance_of(TitansConfig))
    task: StateTrackingConfig = field(StateTrackingConfig(), instance_of(StateTrackingConfig))
    study: StudyConfig = field(StudyConfig(), instance_of(StudyConfig))

    def __post_init__(self) -> None:
        check_fields(self)
        require(self.model.variant == "lmm", "model.variant", self.model.variant, "'lmm'")


def make_models(config: StateTrackingExperiment, vocab_size: int) -> dict[str, TitansConfig]:
    """The models by name, all of the base's size.

    Args:
      config: see StateTrackingExperiment.
      vocab_size: of the tasks.
    """
    base = dataclasses.replace(config.model, vocab_size=vocab_size)
    changes: dict[str, dict[str, Any]] = {
        NO_MOMENTUM: {"memory": dataclasses.replace(base.memory, momentum=False)},
        DEEP_MEMORY: {"memory": dataclasses.replace(base.memory, depth=2)},
        MORE_LAYERS: {"num_layers": 2},
    }
    models = {
        name: dataclasses.replace(base, **changes[name]) if name in changes else named(name, base)
        for name in config.models
    }
    return {name: match_parameters(model, base) for name, model in models.items()}
