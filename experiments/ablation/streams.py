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

from experiments.ablation.config import StreamConfig
from experiments.comparison import StudyConfig
from experiments.comparison.store import fingerprint, plain
from experiments.comparison.study import Training, check_sizes, compare, kept
from experiments.long_context.streaming import stream_text
from experiments.long_context.training import train
from experiments.training.config import DataConfig, TrainConfig
from experiments.training.text import load_text
from titans_jax import TitansConfig
from titans_jax.config import require
from titans_jax.data.tokenizers import Tokenizer
from titans_jax.matching import count_parameters

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
