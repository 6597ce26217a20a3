"""The third measure of the ablation: what a memory that has read a million tokens still knows.

Every case is trained on streams, its state carried from window to window (experiments/long_context/training.py), and
then reads a text that was held out, without a reset, while its memory goes on learning. A folder per trial, so several
processes may share the work; a trial that is interrupted starts anew.
"""

import dataclasses
import math
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
from flax import nnx

from experiments.ablation.config import StreamConfig
from experiments.comparison import StudyConfig
from experiments.comparison.provenance import provenance
from experiments.comparison.study import check_sizes, statistics
from experiments.comparison.trial import (
    CONFIG,
    RECORD,
    check_same,
    claimed,
    read_record,
    write_json,
)
from experiments.long_context.streaming import stream_text
from experiments.long_context.training import train
from experiments.training.config import DataConfig, TrainConfig
from experiments.training.processes import say
from experiments.training.text import load_text
from titans_jax import TitansConfig
from titans_jax.data.tokenizers import Tokenizer
from titans_jax.fields import require
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
          tokens from half of the position to it; no model has a sweep.

        Raises:
          ValueError: before any training, if models differ in size or a folder holds another trial.
        """
        config = self.config
        if models:
            check_sizes(models, StudyConfig.tolerance)
        for name, model in models.items():
            for seed in config.seeds:
                check_same(_folder(workdir, name, seed), name, self.described(model, seed))
        for seed in config.seeds:
            for name, model in models.items():
                self._trial(name, model, seed, _folder(workdir, name, seed))
        found: dict[str, Any] = {}
        for name, model in models.items():
            records = {
                seed: record
                for seed in config.seeds
                if (record := read_record(_folder(workdir, name, seed)))
            }
            if records:
                judged = [r["results"] for r in records.values() if r["results"] is not None]
                found[name] = {
                    "parameters": count_parameters(model),
                    "seeds": list(records),
                    **statistics(judged),
                    "trials": list(records.values()),
                }
        shared = {
            "steps": config.steps,
            "learning_rates": [config.optimizer.learning_rate],
            "seeds": list(config.seeds),
        }
        return {
            "task": self._shared(),
            "config": shared,
            "seconds": sum(r["seconds"] for model in found.values() for r in model["trials"]),
            "complete": all(
                name in found and found[name]["seeds"] == shared["seeds"] for name in models
            ),
            "models": found,
        }

    def _shared(self) -> dict[str, Any]:
        """What all trials share, as JSON values."""
        fields = dataclasses.asdict(self.config)
        del fields["model"], fields["seeds"]
        return fields

    def described(self, model: TitansConfig, seed: int) -> dict[str, Any]:
        """All that decides a trial, as JSON values.

        Args:
          model: what is trained.
          seed: of the trial.
        """
        return {**self._shared(), "model": dataclasses.asdict(model), "seed": seed}

    def _trial(self, name: str, model: TitansConfig, seed: int, folder: Path) -> None:
        """Trains and reads, unless that is done or another process is at it."""
        folder.mkdir(parents=True, exist_ok=True)
        described = self.described(model, seed)
        with claimed(folder) as ours:
            if not ours:
                say(f"stream of {name}, seed {seed}: another process is at it")
            if not ours or read_record(folder):
                return
            write_json(folder / CONFIG, described)
            config, began = self.config, time.perf_counter()
            training = TrainConfig(
                seed=seed, steps=config.steps, batch_size=config.batch_size, data=self._data, model=model,
                optimizer=config.optimizer,
            )  # fmt: skip
            trained, losses = train(training, self.train)
            results, last = None, "diverged"
            if math.isfinite(losses[-1]):
                graphdef, params = nnx.split(trained)
                reader = nnx.merge(graphdef, jax.device_put(params))
                rows, _ = stream_text(reader, self.test, mode="learning", block=BLOCK)
                bits = {str(row["position"]): row["nats"] / math.log(2) for row in rows}
                results = {"bits": bits}
                last = f"{bits[str(config.tokens)]:.4f} bits at the end"
            record = {
                "name": name,
                "config": described,
                **provenance(),
                "seconds": time.perf_counter() - began,
                "losses": losses,
                "results": results,
            }
            write_json(folder / RECORD, record)
            jax.clear_caches()
        say(f"stream of {name}, seed {seed}: {last}, {record['seconds']:.0f} s")


def _folder(workdir: Path, name: str, seed: int) -> Path:
    return workdir / name / f"seed_{seed}"
