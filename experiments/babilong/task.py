"""BABILong as a task of a study: prose first, then stories hidden in it; judged by what a model answers.

Training counts the tokens of answers alone once the steps of prose are over; it also asks what was asked earlier in a
story, where it was asked. Stories longer than a prompt are left out at that length. The learning rate is chosen by the
loss on the last tenth of the training stories.
"""

import bisect
import dataclasses
import math
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from experiments.babilong.answers import accuracy
from experiments.babilong.hidden_stories import (
    Prose,
    Sample,
    answer_tokens,
    make_sample,
    read_prose,
    shortest,
)
from experiments.babilong.stories import Story, exchanged, find_file, labels, read_stories
from experiments.babilong.vocabulary import make_tokenizer
from experiments.comparison import StudyConfig
from experiments.comparison.config import SELECTION
from experiments.comparison.store import fingerprint
from experiments.language_modeling.bits_per_byte import find_texts
from experiments.language_modeling.likelihood import Encoded, token_likelihoods
from experiments.training.step import Batch
from titans_jax import Titans, TitansConfig
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


#: Streams of random numbers that no training seed reaches.
VALIDATION, TEST = 1_000_001, 1_000_002
#: Of the training stories, every so many-th of the last ones chooses the learning rate.
HELD_OUT = 10
VALIDATION_SAMPLES = 64
#: Characters that a tokenizer is trained on: the beginnings of the prose, and the stories.
TOKENIZER_TEXT = 400_000


class Stories(NamedTuple):
    """The stories of one bAbI task.

    Attributes:
      train: (story, tokens without background), shortest first.
      valid: likewise.
      test: likewise.
      labels: all words that answer.
    """

    train: list[tuple[Story, int]]
    valid: list[tuple[Story, int]]
    test: list[tuple[Story, int]]
    labels: tuple[str, ...]


class Babilong:
    """See the module's docstring and `experiments.comparison.Task`."""

    def __init__(self, data_dir: Path, config: BabilongConfig, workdir: Path):
        """Reads stories and prose.

        Args:
          data_dir: folder of the data.
          config: see BabilongConfig.
          workdir: where a trained tokenizer is kept.

        Raises:
          OSError: a file is missing.
          ValueError: it is of another kind, prose is shorter than the longest context, or no story fits a length.
        """
        self.config = config
        folder = data_dir / config.stories
        files = {
            (task, part): find_file(folder, task, part)
            for task in config.tasks
            for part in ("train", "test")
        }
        test_prose = [find_texts(data_dir, pattern)[0] for pattern in config.test_prose]
        train_prose = [p for p in find_texts(data_dir, config.train_prose) if p not in test_prose]
        texts = [path.read_text(encoding="utf-8") for path in (*train_prose, *files.values())]
        self.tokenizer = make_tokenizer(
            config.tokenizer, (text[:TOKENIZER_TEXT] for text in texts), workdir
        )
        streamed = config.stream_lengths if config.stream_models else ()
        longest = max([*config.test_lengths, *streamed])
        self.test_prose: Prose = read_prose(test_prose, self.tokenizer, longest)
        trained = max((*config.short_lengths, *config.train_lengths))
        self.prose: Prose = read_prose(train_prose, self.tokenizer, trained)
        self.stories = {task: self._read(files, task) for task in config.tasks}
        self._longest_answer = max(
            len(answer_tokens(story, self.tokenizer))
            for stories in self.stories.values()
            for story, _ in stories.train
        )
        self._check()

    def _read(self, files: dict[tuple[int, str], Path], task: int) -> Stories:
        train, test = (read_stories(files[task, part]) for part in ("train", "test"))
        cut = len(train) - max(1, len(train) // HELD_OUT)
        return Stories(
            self._measured(train[:cut]),
            self._measured(train[cut:]),
            self._measured([story.alone() for story in test]),
            labels([*train, *test]),
        )

    def _measured(self, stories: list[Story]) -> list[tuple[Story, int]]:
        """Stories with their tokens without background, shortest first."""
        measured = [(story, shortest(story, self.tokenizer)) for story in stories]
        return sorted(measured, key=lambda one: one[1])

    def _check(self) -> None:
        """Refuses lengths that stories do not fit in."""
        for name in ("short_lengths", "train_lengths"):
            for length in getattr(self.config, name):
                if not self._tasks_at(length):
                    raise ValueError(
                        f"config.{name}: no story of tasks {self.config.tasks} fits in {length} tokens; give longer "
                        "ones"
                    )
        for task, stories in self.stories.items():
            least = stories.test[0][1]
            for length in (*self.config.test_lengths, *self.config.stream_lengths):
                if 0 < length < least:
                    raise ValueError(
                        f"config.test_lengths: {length}: every story of task {task} is longer"
                    )

    def _tasks_at(self, length: int) -> list[int]:
        """Tasks of which at least one story fits."""
        return [
            task
            for task, stories in self.stories.items()
            if stories.train[0][1] <= length and stories.valid[0][1] <= length
        ]

    def describe(self) -> dict[str, Any]:
        """The config, apart from model and study, the tokenizer, and what was read."""
        fields = dataclasses.asdict(self.config)
        for name in (
            "model",
            "models",
            "study",
            "stream_models",
            "stream_lengths",
            "stream_samples",
        ):
            del fields[name]
        return {
            **fields,
            "fingerprint": self.tokenizer.fingerprint(),
            "stories": {str(t): [len(s.train), len(s.test)] for t, s in self.stories.items()},
            "prose_tokens": [self.prose.size, self.test_prose.size],
            "sha256": fingerprint(
                [
                    *(prose.tokens.tobytes() for prose in (self.prose, self.test_prose)),
                    *(repr(stories).encode() for stories in self.stories.values()),
                ]
            ),
        }

    def batch(self, index: int, seed: int) -> Batch:
        """Training batch `index` (see `experiments.comparison.Task`)."""
        short = 0 <= index - self.config.prose_steps < self.config.short_steps
        lengths = self.config.short_lengths if short else self.config.train_lengths
        length = lengths[index % len(lengths)]
        rng = np.random.default_rng([seed, index])
        number = self.config.batch_tokens // length
        if index < self.config.prose_steps:
            width = self._width(length)
            places = rng.integers(self.prose.size - width, size=number)
            rows = np.stack([self.prose.tokens[p : p + width + 1] for p in places])
            counts = np.ones((number, width), bool)
            return {"inputs": rows[:, :-1], "targets": rows[:, 1:], "loss_mask": counts}
        samples = []
        tasks = self._tasks_at(length)
        for _ in range(number):
            story = self._draw(self.stories[int(rng.choice(tasks))].train, length, rng)
            other = exchanged(story, self.config.exchange, rng)
            if shortest(other, self.tokenizer) <= length:  # words may differ in tokens
                story = other
            samples.append(make_sample(story, self.prose, length, self.tokenizer, rng))
        return self._together(samples, length)

    @staticmethod
    def _draw(stories: list[tuple[Story, int]], length: int, rng: np.random.Generator) -> Story:
        """One of the stories that fit."""
        fitting = bisect.bisect_right(stories, length, key=lambda one: one[1])
        return stories[int(rng.integers(fitting))][0]

    def _width(self, length: int) -> int:
        """Tokens of a row, prompt and answer: the same for all batches of a length, which compile once."""
        return -(-(length + self._longest_answer) // 8) * 8

    def _together(self, samples: list[Sample], length: int) -> Batch:
        """Samples of one length as a batch in which the answers alone count."""
        shape = (len(samples), self._width(length))
        tokens = np.zeros((shape[0], shape[1] + 1), np.int32)
        counts = np.zeros(shape, bool)
        for row, sample in enumerate(samples):
            whole = np.concatenate([*sample.prompt, sample.answer])
            tokens[row, : len(whole)] = whole
            counts[row, length - 1 : len(whole) - 1] = True
            counts[row, sample.answered - 1] = True
        return {"inputs": tokens[:, :-1], "targets": tokens[:, 1:], "loss_mask": counts}

    def evaluate(self, model: Titans) -> dict[str, Any]:
        """Accuracy by task and length; selection by the loss of answers to held-out training stories."""
        found: dict[str, dict[str, float]] = {}
        for task in self.config.tasks:
            found[f"qa{task}"] = {}
            for length in self.config.test_lengths:
                number = self.config.samples_of(length)
                found[f"qa{task}"][str(length)] = self.accuracy(model, task, length, number)
        mean = {
            length: float(np.mean([by_length[length] for by_length in found.values()]))
            for length in next(iter(found.values()))
        }
        return {SELECTION: self._selection(model), "accuracy": {**found, "mean": mean}}

    def accuracy(self, model: Titans, task: int, length: int, number: int) -> float:
        """The fraction of test samples that a model answers right."""
        rng = np.random.default_rng([TEST, task, length])
        stories = self.stories[task]
        fitting = [s for s, tokens in stories.test if not length or tokens <= length]
        chosen = [fitting[int(rng.integers(len(fitting)))] for _ in range(number)]
        samples = [make_sample(s, self.test_prose, length, self.tokenizer, rng) for s in chosen]
        return accuracy(
            model,
            self.tokenizer,
            list(zip(chosen, samples, strict=True)),
            stories.labels,
            self.config.answer_tokens,
        )

    def _selection(self, model: Titans) -> float:
        rng, encoded = np.random.default_rng(VALIDATION), []
        for length in self.config.train_lengths:
            for task in self._tasks_at(length):
                for _ in range(VALIDATION_SAMPLES):
                    story = self._draw(self.stories[task].valid, length, rng)
                    sample = make_sample(story, self.prose, length, self.tokenizer, rng)
                    whole = np.concatenate([*sample.prompt, sample.answer])
                    encoded.append(Encoded(whole, len(sample.answer)))
        found = token_likelihoods(model, encoded)
        return -math.fsum(one.log_probability for one in found) / len(found)
