"""Language modelling as a task of a study: random windows of books, judged in bits per byte and by questions."""

import dataclasses
from pathlib import Path
from typing import Any

from experiments.comparison.config import SELECTION
from experiments.comparison.store import fingerprint
from experiments.language_modeling.bits_per_byte import (
    Tokens,
    Windows,
    beginning,
    bits_per_byte,
    cut_off,
    encode,
    find_texts,
)
from experiments.language_modeling.evaluate import QUESTIONS, answer
from experiments.language_modeling.questions import Task as Questions
from experiments.language_modeling.questions import find_tasks
from experiments.training.step import Batch
from titans_jax import Titans, TitansConfig
from titans_jax.data import Tokenizer, load_tokenizer
from titans_jax.fields import (
    check_fields,
    field,
    inside_unit,
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


class TextTask:
    """Trains on windows of text and judges by bits per byte (see `experiments.comparison.Task`)."""

    def __init__(self, data_dir: Path, config: TextConfig):
        """Reads and encodes all texts.

        Raises:
          OSError: a file is missing.
          ValueError: the texts are too short, or the tokenizer cannot read them.
        """
        self.config = config
        self.tokenizer: Tokenizer = load_tokenizer(config.tokenizer)
        self._read: list[bytes] = []
        tests = [find_texts(data_dir, pattern)[0] for pattern in config.tests]
        train = [path for path in find_texts(data_dir, config.train) if path not in tests]
        parts = [cut_off(path, config.valid_fraction) for path in train]
        self.windows = Windows(
            [self._encode(text) for text, _ in parts], config.length, config.batch_size
        )
        self.valid = [self._encode(text) for _, text in parts if text]
        self.tests = {path.stem: self._encode(beginning(path, config.test_bytes)) for path in tests}
        self._files = [path.name for path in (*train, *tests)]
        self._sha256 = fingerprint(self._read)
        self._read.clear()

    def _encode(self, text: bytes) -> Tokens:
        self._read.append(text)
        return encode(text, self.tokenizer)

    def describe(self) -> dict[str, Any]:
        """The config, the files' names and what they hold."""
        return {
            **dataclasses.asdict(self.config),
            "files": self._files,
            "sha256": self._sha256,
        }

    def batch(self, index: int, seed: int) -> Batch:
        """Training batch `index` (see `experiments.comparison.Task`)."""
        return self.windows.batch(index, seed)

    def evaluate(self, model: Titans) -> dict[str, Any]:
        """Bits per byte of held-out ends of the training texts (selection) and of each test."""
        return {
            SELECTION: self.bits(model, *self.valid),
            "bits_per_byte": {name: self.bits(model, text) for name, text in self.tests.items()},
        }

    def bits(self, model: Titans, *texts: Tokens) -> float:
        """Bits per byte of some texts together."""
        size = sum(text.size for text in texts)
        each = [bits_per_byte(model, text, self.config.length) * text.size for text in texts]
        return sum(each) / size


class LanguageModeling(TextTask):
    """The same, and zero-shot questions."""

    def __init__(self, data_dir: Path, text: TextConfig, questions: QuestionsConfig):
        """Reads texts and questions; raises as `TextTask` and `find_tasks` do."""
        super().__init__(data_dir, text)
        self.limit = questions.limit
        self.questions: list[Questions] = []
        if questions.tasks:
            self.questions = find_tasks(data_dir / QUESTIONS, questions.tasks, questions.limit)

    def describe(self) -> dict[str, Any]:
        """The texts', and the questions' names, number and what they say."""
        asked = {task.name: len(task.questions) for task in self.questions}
        digest = fingerprint(repr(task).encode() for task in self.questions)
        return {**super().describe(), "questions": asked, "questions_sha256": digest}

    def evaluate(self, model: Titans) -> dict[str, Any]:
        """Bits per byte, and the metrics of each file of questions (evaluate.py)."""
        answers = {task.name: answer(model, self.tokenizer, task) for task in self.questions}
        return {**super().evaluate(model), "questions": answers}


def with_vocabulary(model: TitansConfig, tokenizer: Tokenizer) -> TitansConfig:
    """The model with as many tokens as the tokenizer has."""
    return dataclasses.replace(model, vocab_size=tokenizer.vocab_size)
