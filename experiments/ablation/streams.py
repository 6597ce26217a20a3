"""The third measure of the ablation: what a memory that has read a million tokens still knows.

Every case is trained on streams, its state carried from window to window (experiments/long_context/training.py), and
then reads a text that was held out, without a reset, while its memory goes on learning. A trial that is interrupted
starts anew.
"""

import dataclasses
import functools
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
from flax import nnx

from experiments.comparison import StudyConfig
from experiments.comparison.store import fingerprint, plain
from experiments.comparison.study import Training, check_sizes, compare, kept
from experiments.long_context.streaming import stream_text
from experiments.long_context.training import train
from experiments.training.config import DataConfig, OptimizerConfig, TrainConfig
from experiments.training.text import load_text
from titans_jax import TitansConfig
from titans_jax.data.tokenizers import Tokenizer
from titans_jax.fields import (
    check_fields,
    field,
    inside_unit,
    instance_of,
    positive_int,
    random_seed,
    require,
    several,
    string,
    whole,
)
from titans_jax.matching import count_parameters


@dataclasses.dataclass(frozen=True)
class StreamConfig:
    """Models that carry their memory through a long text, in training and in testing (streams.py).

    Attributes:
      model: the base.
      prose: texts under --data_dir, a pattern.
      held_out: fraction of them that is not trained on, whole texts; the stream is read from it.
      tokenizer: "bytes", or a tokenizer file.
      length: tokens of a window in training, through which the gradient goes.
      batch_size: windows of a batch.
      steps: of a training.
      optimizer: one learning rate for all.
      tokens: of the stream, a power of two.
      seeds: of parameters and of the places in the text; the texts held out are the same for all.
    """

    model: TitansConfig = field(TitansConfig(), instance_of(TitansConfig))
    prose: str = field("text/train_*.txt", string)
    held_out: float = field(0.17, inside_unit)
    tokenizer: str = field("bytes", string)
    length: int = field(1024, positive_int)
    batch_size: int = field(2, positive_int)
    steps: int = field(300, positive_int)
    optimizer: OptimizerConfig = field(OptimizerConfig(), instance_of(OptimizerConfig))
    tokens: int = field(2_097_152, whole("a power of two of at least 1024", 1024))
    seeds: tuple[int, ...] = field((0, 1), several(random_seed, distinct=True))

    def __post_init__(self) -> None:
        check_fields(self)
        power = not self.tokens & (self.tokens - 1)
        require(power, "tokens", self.tokens, "a power of two of at least 1024")


#: Tokens per call of the device in reading.
BLOCK = 1024


class Streams:
    """The texts, read and checked before any training."""

    def __init__(self, data: Path, config: StreamConfig, tokenizer: Tokenizer):
        """Reads the texts.

        Args:
          data: folder of --data_dir.
          config: see StreamConfig.
          tokenizer: of all of them.

        Raises:
          FileNotFoundError: no text is there.
          ValueError: the held-out part is shorter than the stream.
        """
        self.config = config
        path = str(data / config.prose)
        self._data = DataConfig(
            path, config.tokenizer, config.length, valid_fraction=config.held_out
        )
        text = load_text(TrainConfig(data=self._data), tokenizer)
        self.train = np.concatenate(text.train.documents)
        held_out = tokenizer.encode(text.valid_bytes)
        require(
            held_out.size >= config.tokens,
            "config.streams.tokens",
            config.tokens,
            f"at most the {held_out.size} that are held out of {path}",
        )
        self.test = held_out[: config.tokens]

    def run(self, models: Mapping[str, TitansConfig], workdir: Path) -> dict[str, Any]:
        """Runs what is missing; `max_hours` of the studies does not bound it.

        Args:
          models: by name, of one size.
          workdir: folder of the trials; it goes on there.

        Returns:
          As a study (experiments/comparison/study.py): each model's judgement is "bits" by position, the mean over the
          tokens from half of the position to it; there is one candidate, the learning rate.

        Raises:
          ValueError: before any training, if models differ in size or a folder holds another trial.
        """
        config = self.config
        if models:
            check_sizes(models, StudyConfig.tolerance)
        rate = f"rate {config.optimizer.learning_rate:g}"

        def training(name: str, seed: int) -> Training:
            model, folder = models[name], workdir / name / f"seed_{seed}"
            return kept(folder, self.described(model, seed), lambda: self._trial(model, seed))

        found = compare(
            {name: {rate: functools.partial(training, name)} for name in models}, config.seeds
        )
        shared = {
            "steps": config.steps,
            "learning_rates": [config.optimizer.learning_rate],
            "seeds": list(config.seeds),
        }
        return {"task": plain(self._shared()), "config": shared, **found}

    def _shared(self) -> dict[str, Any]:
        """What all trials share."""
        fields = dataclasses.asdict(self.config)
        del fields["model"], fields["seeds"]
        return {**fields, "sha256": fingerprint([self.train.tobytes(), self.test.tobytes()])}

    def described(self, model: TitansConfig, seed: int) -> dict[str, Any]:
        """All that decides a trial, as JSON values.

        Args:
          model: what is trained.
          seed: of the trial.
        """
        return plain({**self._shared(), "model": dataclasses.asdict(model), "seed": seed})

    def _trial(self, model: TitansConfig, seed: int) -> dict[str, Any]:
        """Trains and reads."""
        config = self.config
        training = TrainConfig(
            seed=seed, steps=config.steps, batch_size=config.batch_size, data=self._data, model=model,
            optimizer=config.optimizer,
        )  # fmt: skip
        trained, losses = train(training, self.train)
        results = None
        if math.isfinite(losses[-1]):
            graphdef, params = nnx.split(trained)
            reader = nnx.merge(graphdef, jax.device_put(params))
            rows, _ = stream_text(reader, self.test, mode="learning", block=BLOCK)
            results = {"bits": {str(row["position"]): row["nats"] / math.log(2) for row in rows}}
        jax.clear_caches()
        return {"parameters": count_parameters(model), "losses": losses, "results": results}
