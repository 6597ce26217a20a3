"""Needles as a task of a study: trained on short haystacks, judged by what a model answers in long ones.

In training the answer's tokens count fully and the prompt's a little, so that a small model learns to recall before it
learns to write. A training may begin with bare prompts (samples.py), and goes on with them beside the others: a model
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

from experiments.comparison.config import SELECTION
from experiments.comparison.store import fingerprint
from experiments.language_modeling.likelihood import Encoded, token_likelihoods
from experiments.language_modeling.text import find_texts
from experiments.needle_in_a_haystack.config import NeedleConfig
from experiments.needle_in_a_haystack.samples import (
    Haystack,
    Sample,
    check_tokenizer,
    is_right,
    make_sample,
    noise,
    prose,
)
from experiments.training.step import Batch
from titans_jax import Titans
from titans_jax.data.tokenizers import load_tokenizer
from titans_jax.inference import GREEDY, generate, prefill

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
