"""Configuration of the needle experiment."""

import dataclasses

from experiments.comparison import StudyConfig
from experiments.needle_in_a_haystack.samples import TASKS
from titans_jax import TitansConfig
from titans_jax.config import is_count, require


@dataclasses.dataclass(frozen=True)
class NeedleConfig:
    """Everything that decides the experiment.

    Attributes:
      models: names (experiments/language_modeling/models.py).
      model: what they share; all get its number of parameters.
      tokenizer: "bytes", or a tokenizer file.
      tasks: of `samples.TASKS`; training draws among them.
      train_prose: haystack of training, a pattern under --data_dir; files of `test_prose` are left out.
      test_prose: haystack of tests.
      bare_steps: the first steps of a training, whose prompts are bare (samples.py).
      bare_lengths: tokens of bare prompts and their answers; in the first steps one after the other, then in turn with
        `train_lengths`. Empty: no prompt is bare.
      train_lengths: tokens of prompt and answer.
      batch_tokens: of a training batch.
      bare_context_weight: of a token of a bare prompt in the loss; a token of the answer has 1.
      context_weight: likewise of the other prompts; above 0 the memory is rewarded for keeping the haystack.
      selection_length: tokens of prompt and answer where the answers' loss, in training haystacks, chooses the learning
        rate; longer than in training, since longer ones are tested.
      test_lengths: tokens of prompt and answer in tests.
      test_samples: of each task and length; the paper's are 500.
      test_batch: sequences that are read at once.
      study: see StudyConfig.
    """

    models: tuple[str, ...] = (
        "mac", "lmm", "mag", "mal", "mac_closed", "lmm_closed", "mag_closed", "mal_closed",
        "ttt_linear", "mamba2", "deltanet", "gated_deltanet", "transformer_window",
    )  # fmt: skip
    model: TitansConfig = dataclasses.field(default_factory=TitansConfig)
    tokenizer: str = "bytes"
    tasks: tuple[str, ...] = TASKS
    train_prose: str = "text/train_*.txt"
    test_prose: str = "text/valid_1661.txt"
    bare_steps: int = 0
    bare_lengths: tuple[int, ...] = ()
    train_lengths: tuple[int, ...] = (512, 1024)
    batch_tokens: int = 8192
    bare_context_weight: float = 0.02
    context_weight: float = 0.02
    selection_length: int = 4096
    test_lengths: tuple[int, ...] = (1024, 2048, 4096, 8192, 16_384)
    test_samples: int = 32
    test_batch: int = 16
    study: StudyConfig = dataclasses.field(default_factory=StudyConfig)

    def __post_init__(self) -> None:
        for name in ("tasks", "train_lengths", "test_lengths", "models"):
            require(bool(getattr(self, name)), f"config.{name}", getattr(self, name), "not empty")
        for task in self.tasks:
            require(task in TASKS, "config.tasks", task, f"one of {TASKS}")
        for name in ("selection_length", "test_samples", "test_batch"):
            value = getattr(self, name)
            require(is_count(value), f"config.{name}", value, "a positive integer")
        require(
            is_count(self.bare_steps, 0) and self.bare_steps < self.study.steps,
            "config.bare_steps",
            self.bare_steps,
            f"less than config.study.steps = {self.study.steps}",
        )
        require(
            bool(self.bare_lengths) or not self.bare_steps,
            "config.bare_lengths",
            self.bare_lengths,
            f"not empty with config.bare_steps = {self.bare_steps}",
        )
        require(
            self.batch_tokens >= max((*self.bare_lengths, *self.train_lengths)),
            "config.batch_tokens",
            self.batch_tokens,
            "at least the longest of config.bare_lengths and config.train_lengths",
        )
        for name in ("bare_context_weight", "context_weight"):
            value = getattr(self, name)
            require(0 <= value <= 1, f"config.{name}", value, "between 0 and 1")
