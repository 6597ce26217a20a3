"""Associative recall over a distance, the ablation's long-context task.

A sequence tells pairs of a key and a value, says nothing of interest for a while, and then asks for the value of every
key, in another order:

    k3 v1 k7 v4 ...  noise noise noise ...  k7 v4 k3 v1 ...

Targets are the values that are asked for. Training sequences have several lengths, tests longer ones with as many
pairs. A small model that meets noise before it can recall learns neither, so training begins at the shortest length.

Tests ask for every key once. Training draws each question anew, so that a key may be asked again and another never:
where every key is asked once, a model gains by crossing out the values that were already asked, needs no keys for it,
and stays there (a loss of ln(n!) / n, 0.8 nats with four pairs) for hundreds of steps.
"""

import dataclasses
import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from experiments.comparison.task import SELECTION
from experiments.training.step import Batch
from titans_jax import Titans
from titans_jax.config import require

#: Ids of each kind: keys, then values, then noise. Small models learn sixteen in some hundred steps, and sixty-four in
#: none of three hundred.
KINDS = 16
VOCABULARY = 3 * KINDS
#: Streams of random numbers that no training seed reaches.
_VALIDATION, _TEST = 1_000_001, 1_000_002


@dataclasses.dataclass(frozen=True)
class RecallConfig:
    """The task.

    Attributes:
      pairs: of key and value in a sequence.
      train_lengths: tokens of the training sequences; one after the other.
      bare_steps: first steps of training, all of the shortest of these lengths.
      batch_tokens: of a training batch.
      test_lengths: where accuracy is reported.
      test_sequences: number of each length.
    """

    pairs: int = 8
    train_lengths: tuple[int, ...] = (32, 128, 512)
    bare_steps: int = 0
    batch_tokens: int = 1024
    test_lengths: tuple[int, ...] = (512, 4096, 16_384)
    test_sequences: int = 32

    def __post_init__(self) -> None:
        require(1 <= self.pairs <= KINDS, "config.recall.pairs", self.pairs, f"1 to {KINDS}")
        for name in ("train_lengths", "test_lengths"):
            value = getattr(self, name)
            fits = bool(value) and min(value) >= 4 * self.pairs
            require(fits, f"config.recall.{name}", value, f"at least 4 * pairs = {4 * self.pairs}")
        require(self.bare_steps >= 0, "config.recall.bare_steps", self.bare_steps, "at least 0")
        require(
            self.batch_tokens >= max(self.train_lengths),
            "config.recall.batch_tokens",
            self.batch_tokens,
            "at least the longest of train_lengths",
        )


class Recall:
    """See the module's docstring and `experiments.comparison.Task`."""

    def __init__(self, config: RecallConfig):
        """Makes the task."""
        self.config = config

    def describe(self) -> dict[str, Any]:
        """The config."""
        return dataclasses.asdict(self.config)

    def batch(self, index: int, seed: int) -> Batch:
        """Training batch `index` (see `experiments.comparison.Task`)."""
        lengths = self.config.train_lengths
        bare = index < self.config.bare_steps
        length = min(lengths) if bare else lengths[index % len(lengths)]
        rng = np.random.default_rng([seed, index])
        return self.sequences(rng, self.config.batch_tokens // length, length, once=False)

    def sequences(self, rng: np.random.Generator, number: int, length: int, *, once: bool) -> Batch:
        """Random sequences.

        Args:
          rng: what draws them.
          number: of sequences.
          length: tokens of each.
          once: ask for every key once; otherwise as often, but for keys drawn with replacement.
        """
        pairs = self.config.pairs
        keys = rng.permuted(np.tile(np.arange(KINDS), (number, 1)), axis=1)[:, :pairs]
        values = KINDS + rng.integers(KINDS, size=(number, pairs))
        if once:
            order = rng.permuted(np.tile(np.arange(pairs), (number, 1)), axis=1)
        else:
            order = rng.integers(pairs, size=(number, pairs))
        noise = 2 * KINDS + rng.integers(KINDS, size=(number, length - 4 * pairs))
        told = np.stack([keys, values], axis=-1).reshape(number, -1)
        asked_keys = np.take_along_axis(keys, order, axis=1)
        asked_values = np.take_along_axis(values, order, axis=1)
        asked = np.stack([asked_keys, asked_values], axis=-1).reshape(number, -1)
        inputs = np.concatenate([told, noise, asked], axis=1).astype(np.int32)
        targets = np.zeros_like(inputs)
        targets[:, :-1] = inputs[:, 1:]
        counts = np.zeros(inputs.shape, bool)
        counts[:, -2 * pairs :: 2] = True
        return {"inputs": inputs, "targets": targets, "loss_mask": counts}

    def evaluate(self, model: Titans) -> dict[str, Any]:
        """Accuracy by length; selection by the loss over other sequences of the training lengths."""
        graphdef, params = nnx.split(model)
        number, losses = self.config.test_sequences, []
        rng = np.random.default_rng(_VALIDATION)
        for length in self.config.train_lengths:
            batch = self.sequences(rng, number, length, once=True)
            losses.append(_judge(graphdef, params, batch)[0])
        rng, accuracy = np.random.default_rng(_TEST), {}
        for length in self.config.test_lengths:
            batch = self.sequences(rng, number, length, once=True)
            right = _judge(graphdef, params, batch)[1]
            accuracy[str(length)] = float(right)
        return {SELECTION: math.fsum(map(float, losses)) / len(losses), "accuracy": accuracy}


@functools.partial(jax.jit, static_argnums=0)
def _judge(graphdef: Any, params: Any, batch: Batch) -> tuple[jax.Array, jax.Array]:
    """Mean loss and accuracy over the targets that count."""
    logits, _ = nnx.merge(graphdef, params)(batch["inputs"])
    counts = batch["loss_mask"]
    chosen = jnp.take_along_axis(logits, batch["targets"][..., None], axis=-1)[..., 0]
    losses = jax.nn.logsumexp(logits, axis=-1) - chosen
    right = jnp.argmax(logits, axis=-1) == batch["targets"]
    total = jnp.sum(counts)
    return jnp.sum(losses * counts) / total, jnp.sum(right & counts) / total
