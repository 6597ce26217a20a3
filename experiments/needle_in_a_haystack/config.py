"""Configuration of the needle experiment."""

import dataclasses

from experiments.comparison import StudyConfig
from experiments.needle_in_a_haystack.samples import TASKS
from titans_jax import TitansConfig
from titans_jax.fields import (
    check_fields,
    field,
    fraction,
    instance_of,
    non_negative_int,
    one_of,
    positive_int,
    require,
    several,
    string,
)

MODELS = (
    "mac", "lmm", "mag", "mal", "mac_closed", "lmm_closed", "mag_closed", "mal_closed",
    "ttt_linear", "mamba2", "deltanet", "gated_deltanet", "transformer_window",
)  # fmt: skip


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

    models: tuple[str, ...] = field(MODELS, several(string))
    model: TitansConfig = field(TitansConfig(), instance_of(TitansConfig))
    tokenizer: str = field("bytes", string)
    tasks: tuple[str, ...] = field(TASKS, several(one_of(TASKS)))
    train_prose: str = field("text/train_*.txt", string)
    test_prose: str = field("text/valid_1661.txt", string)
    bare_steps: int = field(0, non_negative_int)
    bare_lengths: tuple[int, ...] = field((), several(positive_int, least=0))
    train_lengths: tuple[int, ...] = field((512, 1024), several(positive_int))
    batch_tokens: int = field(8192, positive_int)
    bare_context_weight: float = field(0.02, fraction)
    context_weight: float = field(0.02, fraction)
    selection_length: int = field(4096, positive_int)
    test_lengths: tuple[int, ...] = field((1024, 2048, 4096, 8192, 16_384), several(positive_int))
    test_samples: int = field(32, positive_int)
    test_batch: int = field(16, positive_int)
    study: StudyConfig = field(StudyConfig(), instance_of(StudyConfig))

    def __post_init__(self) -> None:
        check_fields(self)
        bare, steps = self.bare_steps, self.study.steps
        require(bare < steps, "bare_steps", bare, f"less than study.steps = {steps}")
        require(
            bool(self.bare_lengths) or not bare,
            "bare_lengths",
            self.bare_lengths,
            f"not empty with bare_steps = {bare}",
        )
        require(
            self.batch_tokens >= max((*self.bare_lengths, *self.train_lengths)),
            "batch_tokens",
            self.batch_tokens,
            "at least the longest of bare_lengths and train_lengths",
        )
