"""Text to train on and to be scored on, as one array of tokens, and what a model makes of it in bits per byte."""

import functools
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Bool, Float, Int

from titans_jax import Titans
from titans_jax.data import Tokenizer
from titans_jax.data.characters import character_start
from titans_jax.models import next_token_loss
from titans_jax.models.token_ids import require_token_ids
from titans_jax.typing import Array


class Tokens(NamedTuple):
    """A text, its document's start token first, and how many bytes its other tokens spell."""

    ids: Int[np.ndarray, "T"]
    size: int


def find_texts(data_dir: Path, pattern: str) -> list[Path]:
    """The files of a pattern under a folder, sorted.

    Raises:
      FileNotFoundError: there is none.
    """
    found = sorted(path for path in data_dir.glob(pattern) if path.is_file())
    if not found:
        raise FileNotFoundError(f"--data_dir={data_dir}: no file {pattern} there")
    return found


def encode(text: bytes, tokenizer: Tokenizer) -> Tokens:
    """The tokens of a text."""
    start = np.array([tokenizer.start_token], np.int32)
    return Tokens(np.concatenate([start, tokenizer.encode(text)]), len(text))


def cut_off(path: Path, fraction: float) -> tuple[bytes, bytes]:
    """A text without its last part, and that part; cut after a line break.

    Args:
      path: of the text.
      fraction: size of the last part.
    """
    text = path.read_bytes()
    place = text.rfind(b"\n", 0, round(len(text) * (1 - fraction))) + 1
    return text[:place], text[place:]


def beginning(path: Path, size: int) -> bytes:
    """At most so many bytes of a text, up to a line break, without one up to a character's end; 0 for all."""
    text = path.read_bytes()
    if not size or len(text) <= size:
        return text
    return text[: text.rfind(b"\n", 0, size) + 1] or text[: character_start(text, size)]


class Windows:
    """Random windows of texts, each text as likely as it is long; the same for the same seed and number."""

    def __init__(self, texts: Sequence[Tokens], length: int, batch_size: int):
        """Checks that there is a text that a window fits in.

        Raises:
          ValueError: there is none.
        """
        self._texts = [text.ids for text in texts if len(text.ids) > length]
        if not self._texts:
            longest = max((len(text.ids) for text in texts), default=0)
            raise ValueError(f"length={length}: the longest text has only {longest} tokens")
        self._ends = np.cumsum([len(ids) - length for ids in self._texts])
        self._length, self._batch_size = length, batch_size

    def batch(self, index: int, seed: int) -> dict[str, np.ndarray]:
        """Batch `index` of the order `seed`."""
        rng = np.random.default_rng([seed, index])
        rows = np.stack(
            [self._window(n) for n in rng.integers(self._ends[-1], size=self._batch_size)]
        )
        mask = np.ones((self._batch_size, self._length), bool)
        return {"inputs": rows[:, :-1], "targets": rows[:, 1:], "loss_mask": mask}

    def _window(self, number: int) -> np.ndarray:
        which = int(np.searchsorted(self._ends, number, side="right"))
        start = number - (self._ends[which - 1] if which else 0)
        return self._texts[which][start : start + self._length + 1]


def bits_per_byte(model: Titans, text: Tokens, length: int, batch_tokens: int = 8192) -> float:
    """What a model needs for a text, read in windows one after the other, each without what was before it.

    Args:
      model: the language model.
      text: what it reads.
      length: tokens of a window.
      batch_tokens: read at once, if a window is not longer.

    Raises:
      ValueError: an id is outside the model's vocabulary.
    """
    require_token_ids("text.ids", text.ids[None], model.config.vocab_size)
    graphdef, params = nnx.split(model)
    targets = len(text.ids) - 1
    rows = max(1, batch_tokens // length)
    count = -(-targets // length)
    padded = np.zeros(-(-count // rows) * rows * length + 1, np.int32)
    padded[: targets + 1] = text.ids
    counts = np.arange(len(padded) - 1) < targets
    sums = []
    for start in range(0, len(padded) - 1, rows * length):
        part = slice(start, start + rows * length)
        inputs, wanted = padded[:-1][part], padded[1:][part]
        shape = (rows, length)
        sums.append(
            _nats(
                graphdef,
                params,
                inputs.reshape(shape),
                wanted.reshape(shape),
                counts[part].reshape(shape),
            )
        )
    nats = float(np.sum(np.asarray(jax.device_get(sums), np.float64)))
    return nats / math.log(2) / text.size


@functools.partial(jax.jit, static_argnames="graphdef")
def _nats(
    graphdef: Any,
    params: Any,
    inputs: Int[Array, "B T"],
    targets: Int[Array, "B T"],
    counts: Bool[Array, "B T"],
) -> Float[Array, ""]:
    batch = {"inputs": inputs, "targets": targets, "loss_mask": counts}
    loss, sums = next_token_loss(nnx.merge(graphdef, params), batch)
    return loss * jnp.asarray(sums["tokens"], loss.dtype)
