"""Configuration of the language-modelling experiment."""

import dataclasses

from experiments.comparison import StudyConfig
from titans_jax import TitansConfig
from titans_jax.fields import (
    check_fields,
    field,
    inside_unit,
    instance_of,
    positive_int,
    several,
    string,
    whole,
)


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

    train: str = field("text/train_*.txt", string)
    valid_fraction: float = field(0.02, inside_unit)
    tests: tuple[str, ...] = field(
        ("text/valid_1661.txt", "text/wikitext103_valid.txt"), several(string)
    )
    test_bytes: int = field(262_144, whole("an integer, 0 for all", 0))
    tokenizer: str = field("bytes", string)
    length: int = field(512, positive_int)
    batch_size: int = field(8, positive_int)

    def __post_init__(self) -> None:
        check_fields(self)


@dataclasses.dataclass(frozen=True)
class QuestionsConfig:
    """Zero-shot questions under --data_dir.

    Attributes:
      tasks: beginnings of the names of files in evals/; none for no questions.
      limit: questions of each; 0 for all.
    """

    tasks: tuple[str, ...] = field(
        ("lambada", "piqa", "arc_easy", "winogrande"), several(string, least=0)
    )
    limit: int = field(200, whole("an integer, 0 for all", 0))

    def __post_init__(self) -> None:
        check_fields(self)


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

    models: tuple[str, ...] = field(
        ("lmm", "mac", "mag", "mal", "transformer", "transformer_window"), several(string)
    )
    model: TitansConfig = field(TitansConfig(), instance_of(TitansConfig))
    text: TextConfig = field(TextConfig(), instance_of(TextConfig))
    questions: QuestionsConfig = field(QuestionsConfig(), instance_of(QuestionsConfig))
    study: StudyConfig = field(StudyConfig(), instance_of(StudyConfig))

    def __post_init__(self) -> None:
        check_fields(self)
