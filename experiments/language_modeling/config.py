"""Configuration of the language-modelling experiment."""

import dataclasses

from experiments.comparison import StudyConfig
from titans_jax import TitansConfig
from titans_jax.config import is_count, require


@dataclasses.dataclass(frozen=True)
class TextConfig:
    """Texts under --data_dir.

    Attributes:
      train: files to train on, a pattern.
      valid_fraction: the end of each of them that is held out, to choose the learning rate by.
      tests: files to test on.
      test_bytes: at most so many of each of them; 0 for all.
      tokenizer: "bytes", or a tokenizer file.
      length: tokens of a sequence, in training and in testing.
      batch_size: sequences of a batch.
    """

    train: str = "text/train_*.txt"
    valid_fraction: float = 0.02
    tests: tuple[str, ...] = ("text/valid_1661.txt", "text/wikitext103_valid.txt")
    test_bytes: int = 262_144
    tokenizer: str = "bytes"
    length: int = 512
    batch_size: int = 8

    def __post_init__(self) -> None:
        require(
            0 < self.valid_fraction < 1,
            "config.text.valid_fraction",
            self.valid_fraction,
            "in (0, 1)",
        )
        for name in ("length", "batch_size"):
            value = getattr(self, name)
            require(is_count(value), f"config.text.{name}", value, "a positive integer")
        require(
            is_count(self.test_bytes, 0), "config.text.test_bytes", self.test_bytes, "from 0 on"
        )


@dataclasses.dataclass(frozen=True)
class QuestionsConfig:
    """Zero-shot questions under --data_dir.

    Attributes:
      tasks: beginnings of the names of files in evals/; none for no questions.
      limit: questions of each; 0 for all.
    """

    tasks: tuple[str, ...] = ("lambada", "piqa", "arc_easy", "winogrande")
    limit: int = 200


@dataclasses.dataclass(frozen=True)
class LanguageModelingConfig:
    """Everything that decides the experiment.

    Attributes:
      models: names, see models.py.
      model: what they share.
      text: see TextConfig.
      questions: see QuestionsConfig.
      study: see StudyConfig.
    """

    models: tuple[str, ...] = ("lmm", "mac", "mag", "mal", "transformer", "transformer_window")
    model: TitansConfig = dataclasses.field(default_factory=TitansConfig)
    text: TextConfig = TextConfig()
    questions: QuestionsConfig = QuestionsConfig()
    study: StudyConfig = dataclasses.field(default_factory=StudyConfig)
