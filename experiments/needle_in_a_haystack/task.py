"""Needles as a task of a study: trained on short haystacks, judged by what a model answers in long ones.

In training the answer's tokens count fully and the prompt's a little, so that a small model learns to recall before it
learns to write. A training may begin with bare prompts (needles.py), and goes on with them beside the others: a model
that has learned to recall where there is nothing else writes all it reads, and fails at once in a haystack.

A test prompt is read as a stream, block by block, and the answer is generated greedily, as many tokens as the value
has. The learning rate is chosen by the answers' loss on other prompts from the haystacks of training, longer than those
that are trained on: at their length rates look alike that are far apart at sixteen times it.
"""

import dataclasses
import random
from pathlib import Path
from typing import Any

import numpy as np

from experiments.comparison import StudyConfig
from experiments.comparison.config import SELECTION
from experiments.comparison.store import fingerprint
from experiments.language_modeling.bits_per_byte import find_texts
from experiments.language_modeling.likelihood import Encoded, token_likelihoods
from experiments.needle_in_a_haystack.needles import (
    TASKS,
    Haystack,
    Sample,
    check_tokenizer,
    is_right,
    make_sample,
    noise,
    prose,
)
from experiments.training.step import Batch
from titans_jax import Titans, TitansConfig
from titans_jax.data.tokenizers import load_tokenizer
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
from titans_jax.inference import GREEDY, generate, prefill

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


#: Streams of random numbers that no training seed reaches.
VALIDATION, TEST = "validation", "test"
VALIDATION_SAMPLES = 32
#: Every test length takes one sample at the start, so that what does not fit is said before any training.
_TRIAL = "trial"


class Needles:
    """See the module's docstring and `experiments.comparison.Task`."""

    def __init__(self, data_dir: Path, config: NeedleConfig):
        """Reads tokenizer and haystacks, and makes one sample of every task and length.

        Raises:
          OSError: a file is missing.
          ValueError: the tokenizer cannot encode a needle, a haystack is shorter than a context, or a length is too
            short for a needle.
        """
        self.config = config
        self.tokenizer = load_tokenizer(config.tokenizer)
        check_tokenizer(self.tokenizer)
        test = find_texts(data_dir, config.test_prose)
        train = [path for path in find_texts(data_dir, config.train_prose) if path not in test]
        if not train:
            raise ValueError(f"config.train_prose={config.train_prose!r}: all of it is test_prose")
        self._prose = {
            part: prose(" ".join(path.read_text(encoding="utf-8") for path in paths))
            for part, paths in (("train", train), (TEST, test))
        }
        training = (*config.train_lengths, config.selection_length)
        self._noise = noise(max(*config.bare_lengths, *training, *config.test_lengths))
        for task in config.tasks:
            for part, lengths in (("train", training), (TEST, config.test_lengths)):
                for length in lengths:
                    self.sample(task, part, length, random.Random(_TRIAL))
            for length in config.bare_lengths:
                self.sample(task, "train", length, random.Random(_TRIAL), bare=True)

    def describe(self) -> dict[str, Any]:
        """The config, apart from models and study, and what was read."""
        fields = dataclasses.asdict(self.config)
        for name in ("model", "models", "study", "test_batch"):
            del fields[name]
        sentences = {part: len(haystack.lines) for part, haystack in self._prose.items()}
        return {
            **fields,
            "fingerprint": self.tokenizer.fingerprint(),
            "sentences": sentences,
            "sha256": fingerprint(
                "\n".join(haystack.lines).encode() for haystack in self._prose.values()
            ),
        }

    def sample(
        self, task: str, part: str, length: int, rng: random.Random, bare: bool = False
    ) -> Sample:
        """A sample in the haystack of a part, "train" or "test"."""
        haystack: Haystack = self._noise if task == "single_1" else self._prose[part]
        return make_sample(task, haystack, length, self.tokenizer, rng, bare)

    def encode(self, text: str) -> np.ndarray:
        """Token ids of a text."""
        return self.tokenizer.encode(text.encode())

    def batch(self, index: int, seed: int) -> Batch:
        """Training batch `index` (see `experiments.comparison.Task`)."""
        config = self.config
        kinds = [(True, length) for length in config.bare_lengths]
        if index >= config.bare_steps:
            kinds += [(False, length) for length in config.train_lengths]
        bare, length = kinds[index % len(kinds)]
        context_weight = config.bare_context_weight if bare else config.context_weight
        rng = random.Random(f"{seed} {index}")
        number = config.batch_tokens // length
        tokens = np.zeros((number, length), np.int32)
        weights = np.zeros((number, length), np.float32)
        for row in range(number):
            one = self.sample(rng.choice(config.tasks), "train", length, rng, bare)
            prompt, answer = self.encode(one.prompt), self.encode(one.answer)
            end = len(prompt) + len(answer)
            tokens[row, :end] = np.concatenate([prompt, answer])
            weights[row, 1 : len(prompt)] = context_weight
            weights[row, len(prompt) : end] = 1.0
        return {"inputs": tokens[:, :-1], "targets": tokens[:, 1:], "loss_mask": weights[:, 1:]}

    def evaluate(self, model: Titans) -> dict[str, Any]:
        """Accuracy by task and length; selection by the loss of answers in long training prompts."""
        accuracy = {
            task: {str(n): self.accuracy(model, task, n) for n in self.config.test_lengths}
            for task in self.config.tasks
        }
        return {SELECTION: self._selection(model), "accuracy": accuracy}

    def accuracy(self, model: Titans, task: str, length: int) -> float:
        """The fraction of test samples whose value a model's answer contains."""
        rng = random.Random(f"{TEST} {task} {length}")
        samples = [self.sample(task, TEST, length, rng) for _ in range(self.config.test_samples)]
        right = 0
        for first in range(0, len(samples), self.config.test_batch):
            part = samples[first : first + self.config.test_batch]
            for one, answer in zip(part, self._answers(model, part, length), strict=True):
                right += is_right(answer, one.value)
        return right / len(samples)

    def _answers(self, model: Titans, samples: list[Sample], length: int) -> list[str]:
        """What a model writes after each prompt."""
        number = max(len(self.encode(one.answer)) for one in samples)
        prompts = [self.encode(one.prompt) for one in samples]
        full = model.config.variant == "transformer" and model.config.window is None
        stream = prefill(model, prompts, max_length=length + number if full else None)
        tokens = generate(model, stream, number, GREEDY).tokens
        return [self.tokenizer.decode(row.tolist()).decode(errors="replace") for row in tokens]

    def _selection(self, model: Titans) -> float:
        rng, encoded = random.Random(VALIDATION), []
        for task in self.config.tasks:
            for _ in range(VALIDATION_SAMPLES):
                one = self.sample(task, "train", self.config.selection_length, rng)
                answer = self.encode(one.answer)
                encoded.append(
                    Encoded(np.concatenate([self.encode(one.prompt), answer]), len(answer))
                )
        found = token_likelihoods(model, encoded)
        return -float(np.mean([one.log_probability for one in found]))
