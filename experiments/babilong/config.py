"""Configuration of the BABILong experiment."""

import dataclasses

from experiments.comparison import StudyConfig
from titans_jax import TitansConfig
from titans_jax.config import is_count, require


@dataclasses.dataclass(frozen=True)
class BabilongConfig:
    """Everything that decides the experiment.

    Attributes:
      models: names (experiments/language_modeling/models.py).
      model: what they share; all get its number of parameters.
      stories: folder of the bAbI files, under --data_dir.
      tasks: numbers of the bAbI tasks.
      train_prose: files of the background in training, a pattern; those of `test_prose` are left out.
      test_prose: files of the background in tests.
      tokenizer: "bytes", a tokenizer file, or "bpe:SIZE", which is trained on stories and training prose.
      exchange: groups of words that stand for each other in training (stories.py); empty: stories stay as they are.
      prose_steps: the first steps of a training, which read nothing but prose.
      short_steps: the steps after those, whose prompts have the tokens of `short_lengths`: before a small model can
        tell whose place is asked for in prose, it must in two sentences.
      short_lengths: one after the other.
      train_lengths: tokens of the prompts in the rest of training; one after the other.
      batch_tokens: of a training batch.
      test_lengths: tokens of the prompts in tests; 0 for the story alone.
      test_samples: of each task and length; fewer of the long ones, as `test_tokens` says.
      test_tokens: at most so many of each task and length, but at least `least_samples` samples.
      least_samples: of each task and length.
      answer_tokens: generated at most.
      stream_models: models that read the lengths of `stream_lengths` too, as streams.
      stream_lengths: tokens of the prompts; up to a million and more.
      stream_samples: of each task.
      study: see StudyConfig.
    """

    models: tuple[str, ...] = ("mac", "lmm", "mamba2", "gated_deltanet", "transformer_window")
    model: TitansConfig = dataclasses.field(default_factory=TitansConfig)
    stories: str = "babi"
    tasks: tuple[int, ...] = (1, 2, 3)
    train_prose: str = "text/train_*.txt"
    test_prose: tuple[str, ...] = ("text/train_2600.txt", "text/valid_1661.txt")
    tokenizer: str = "bpe:1024"
    exchange: tuple[tuple[str, ...], ...] = (
        ("Mary", "John", "Sandra", "Daniel"),
        ("bathroom", "bedroom", "garden", "hallway", "kitchen", "office"),
        ("apple", "football", "milk"),
    )
    prose_steps: int = 100
    short_steps: int = 0
    short_lengths: tuple[int, ...] = ()
    train_lengths: tuple[int, ...] = (64, 128, 256)
    batch_tokens: int = 2048
    test_lengths: tuple[int, ...] = (0, 256, 1024, 4096, 16_384)
    test_samples: int = 48
    test_tokens: int = 65_536
    least_samples: int = 8
    answer_tokens: int = 8
    stream_models: tuple[str, ...] = ("mac",)
    stream_lengths: tuple[int, ...] = (131_072, 1_000_000)
    stream_samples: int = 4
    study: StudyConfig = dataclasses.field(default_factory=StudyConfig)

    def __post_init__(self) -> None:
        for name in ("tasks", "train_lengths", "test_lengths", "test_prose"):
            require(bool(getattr(self, name)), f"config.{name}", getattr(self, name), "not empty")
        for name in ("test_samples", "least_samples", "answer_tokens", "stream_samples"):
            value = getattr(self, name)
            require(is_count(value), f"config.{name}", value, "a positive integer")
        for name in ("prose_steps", "short_steps"):
            require(
                is_count(getattr(self, name), 0),
                f"config.{name}",
                getattr(self, name),
                "an integer, 0 for none",
            )
        require(
            self.prose_steps + self.short_steps < self.study.steps,
            "config.prose_steps + config.short_steps",
            self.prose_steps + self.short_steps,
            f"less than config.study.steps = {self.study.steps}",
        )
        require(
            bool(self.short_lengths) or not self.short_steps,
            "config.short_lengths",
            self.short_lengths,
            f"not empty with config.short_steps = {self.short_steps}",
        )
        require(
            self.batch_tokens >= max((*self.short_lengths, *self.train_lengths)),
            "config.batch_tokens",
            self.batch_tokens,
            "at least the longest of config.short_lengths and config.train_lengths",
        )
        words = [word for group in self.exchange for word in group]
        require(len(words) == len(set(words)), "config.exchange", self.exchange, "no word twice")
        for name in self.stream_models:
            require(name in self.models, "config.stream_models", name, f"one of {self.models}")

    def samples_of(self, length: int) -> int:
        """Test samples of each task at a length."""
        return samples_at(length, self.test_samples, self.test_tokens, self.least_samples)


def samples_at(length: int, test_samples: int, test_tokens: int, least_samples: int) -> int:
    """Test samples of each task at a length, 0 for the story alone; see BabilongConfig of the others."""
    most = test_tokens // length if length else test_samples
    return max(least_samples, min(test_samples, most))
