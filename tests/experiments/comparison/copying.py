"""The smallest task and models of a comparison: repeat the token before."""

from typing import Any

import jax.numpy as jnp
import numpy as np

from experiments.comparison import StudyConfig
from experiments.comparison.config import SELECTION
from experiments.training.step import Batch
from titans_jax import MemoryConfig, Titans, TitansConfig

TOKENS, LENGTH = 4, 8


class Copying:
    """Target: the token before, which the loss ignores at the first place."""

    def __init__(self, sequences: int = 4):
        self.sequences = sequences
        self.drawn: list[tuple[int, int]] = []

    def describe(self) -> dict[str, Any]:
        return {"name": "copying", "sequences": self.sequences}

    def batch(self, index: int, seed: int) -> Batch:
        self.drawn.append((index, seed))
        tokens = np.random.default_rng((seed, index)).integers(0, TOKENS, (self.sequences, LENGTH))
        targets = np.roll(tokens, 1, axis=1)
        counts = np.ones(tokens.shape, bool)
        counts[:, 0] = False
        return {
            "inputs": tokens.astype(np.int32),
            "targets": targets.astype(np.int32),
            "loss_mask": counts,
        }

    def evaluate(self, model: Titans) -> dict[str, Any]:
        batch = self.batch(0, 1_000)
        right = np.asarray(jnp.argmax(model(batch["inputs"])[0], -1)) == batch["targets"]
        accuracy = right[batch["loss_mask"]].mean()
        return {SELECTION: 1 - accuracy, "accuracy": {"here": accuracy}}


def models(feed_forward: int = 8) -> dict[str, TitansConfig]:
    """One small model, under two names: compiled once."""
    memory = MemoryConfig(num_heads=1, depth=1, chunk=4)
    model = TitansConfig(
        variant="lmm",
        vocab_size=TOKENS,
        dim=8,
        num_layers=1,
        persistent_tokens=0,
        feed_forward=feed_forward,
        memory=memory,
    )
    return {"one": model, "two": model}


def settings(**changes: Any) -> StudyConfig:
    """A study of seconds."""
    default: dict[str, Any] = {
        "steps": 6,
        "learning_rates": (1e-2, 2e-2),
        "seeds": (0, 1),
        "log_every": 2,
        "checkpoint_every": 4,
    }
    return StudyConfig(**(default | changes))
