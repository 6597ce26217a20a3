"""Configuration of the ablation."""

import dataclasses

from experiments.comparison import StudyConfig
from experiments.language_modeling.config import TextConfig
from experiments.needle_in_a_haystack.config import NeedleConfig
from titans_jax import TitansConfig


@dataclasses.dataclass(frozen=True)
class AblationConfig:
    """Everything that decides the ablation.

    Attributes:
      cases: names, see cases.py.
      chunks: chunk sizes that the base is also tried with.
      model: the base of the language models.
      text: see TextConfig.
      study: of the language models.
      needle_cases: names of the cases that are asked for needles.
      needle_chunks: chunk sizes likewise.
      needles: see NeedleConfig; its `model` is the base there, and its `models` are not used.
    """

    cases: tuple[str, ...] = ("base",)
    chunks: tuple[int, ...] = ()
    model: TitansConfig = dataclasses.field(default_factory=TitansConfig)
    text: TextConfig = dataclasses.field(default_factory=TextConfig)
    study: StudyConfig = dataclasses.field(default_factory=StudyConfig)
    needle_cases: tuple[str, ...] = ("base",)
    needle_chunks: tuple[int, ...] = ()
    needles: NeedleConfig = dataclasses.field(default_factory=NeedleConfig)
