"""Configuration of the ablation."""

import dataclasses

from experiments.ablation.recall import RecallConfig
from experiments.comparison import StudyConfig
from experiments.language_modeling.config import TextConfig
from titans_jax import TitansConfig


@dataclasses.dataclass(frozen=True)
class AblationConfig:
    """Everything that decides the ablation.

    Attributes:
      cases: names, see cases.py.
      chunks: chunk sizes that the base is also tried with.
      model: the base of the language models.
      recall_model: the base of the models that recall; its vocabulary is the task's.
      text: see TextConfig.
      recall: see RecallConfig.
      study: of the language models.
      recall_study: of the models that recall.
    """

    cases: tuple[str, ...] = ("base",)
    chunks: tuple[int, ...] = ()
    model: TitansConfig = dataclasses.field(default_factory=TitansConfig)
    recall_model: TitansConfig = dataclasses.field(default_factory=TitansConfig)
    text: TextConfig = dataclasses.field(default_factory=TextConfig)
    recall: RecallConfig = dataclasses.field(default_factory=RecallConfig)
    study: StudyConfig = dataclasses.field(default_factory=StudyConfig)
    recall_study: StudyConfig = dataclasses.field(default_factory=StudyConfig)
