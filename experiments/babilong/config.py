"""Configuration of the BABILong experiment."""

import dataclasses

from experiments.comparison import StudyConfig
from titans_jax import TitansConfig
from titans_jax.fields import (
    check_fields,
    field,
    instance_of,
    non_negative_int,
    positive_int,
    require,
    several,
    string,
    whole,
)


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

    models: tuple[str, ...] = field(
        ("mac", "lmm", "mamba2", "gated_deltanet", "transformer_window"), several(string)
    )
    model: TitansConfig = field(TitansConfig(), instance_of(TitansConfig))
    stories: str = field("babi", string)
    tasks: tuple[int, ...] = field((1, 2, 3), several(positive_int))
    train_prose: str = field("text/train_*.txt", string)
    test_prose: tuple[str, ...] = field(
        ("text/train_2600.txt", "text/valid_1661.txt"), several(string)
    )
    tokenizer: str = field("bpe:1024", string)
    exchange: tuple[tuple[str, ...], ...] = field(
        (
            ("Mary", "John", "Sandra", "Daniel"),
            ("bathroom", "bedroom", "garden", "hallway", "kitchen", "office"),
            ("apple", "football", "milk"),
        ),
        several(several(string), least=0),
    )
    prose_steps: int = field(100, non_negative_int)
    short_steps: int = field(0, non_negative_int)
    short_lengths: tuple[int, ...] = field((), several(positive_int, least=0))
    train_lengths: tuple[int, ...] = field((64, 128, 256), several(positive_int))
    batch_tokens: int = field(2048, positive_int)
    test_lengths: tuple[int, ...] = field(
        (0, 256, 1024, 4096, 16_384), several(whole("an integer, 0 for the story alone", 0))
    )
    test_samples: int = field(48, positive_int)
    test_tokens: int = field(65_536, positive_int)
    least_samples: int = field(8, positive_int)
    answer_tokens: int = field(8, positive_int)
    stream_models: tuple[str, ...] = field(("mac",), several(string, least=0))
    stream_lengths: tuple[int, ...] = field((131_072, 1_000_000), several(positive_int, least=0))
    stream_samples: int = field(4, positive_int)
    study: StudyConfig = field(StudyConfig(), instance_of(StudyConfig))

    def __post_init__(self) -> None:
        check_fields(self)
        before, steps = self.prose_steps + self.short_steps, self.study.steps
        require(
            before < steps, "prose_steps + short_steps", before, f"less than study.steps = {steps}"
        )
        require(
            bool(self.short_lengths) or not self.short_steps,
            "short_lengths",
            self.short_lengths,
            f"not empty with short_steps = {self.short_steps}",
        )
        require(
            self.batch_tokens >= max((*self.short_lengths, *self.train_lengths)),
            "batch_tokens",
            self.batch_tokens,
            "at least the longest of short_lengths and train_lengths",
        )
        words = [word for group in self.exchange for word in group]
        require(len(words) == len(set(words)), "exchange", self.exchange, "no word twice")
        for name in self.stream_models:
            require(name in self.models, "stream_models", name, f"one of {self.models}")

    def samples_of(self, length: int) -> int:
        """Test samples of each task at a length."""
        return samples_at(length, self.test_samples, self.test_tokens, self.least_samples)


def samples_at(length: int, test_samples: int, test_tokens: int, least_samples: int) -> int:
    """Test samples of each task at a length, 0 for the story alone; see BabilongConfig of the others."""
    most = test_tokens // length if length else test_samples
    return max(least_samples, min(test_samples, most))
