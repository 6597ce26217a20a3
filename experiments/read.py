"""Reads a text of any length with a trained model, in fixed memory, and keeps what the memory learned of it.

python -m experiments.read --workdir=runs/tiny --input=book.txt --save_memory=book.safetensors
python -m experiments.sample --memory=book.safetensors --prompt="The murderer is "

Prints the bits per byte of what was read so far. --freeze_memory reads without learning: the difference is what
learning brings.
"""

import math
import os
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from absl import flags
from jaxtyping import Int32

from experiments import command
from experiments.training.trained import load_trained
from titans_jax.data.characters import text_size
from titans_jax.data.tokenizers import Tokenizer
from titans_jax.inference import file_tokens, load_memory, save_memory, score, start_stream

#: Bytes of the file per line that is printed.
_PIECE = 1 << 18


def define_flags() -> None:
    """The program's flags."""
    flags.DEFINE_string("workdir", None, "the run whose model reads", required=True)
    flags.DEFINE_string("input", None, "the file to read", required=True)
    flags.DEFINE_string("save_memory", None, "write what is kept of the text to this file")
    flags.DEFINE_string("memory", None, "go on from this file, read before")
    flags.DEFINE_bool("freeze_memory", False, "read without learning")
    flags.DEFINE_integer(
        "room", 4096, "full attention only: tokens that may follow the text", lower_bound=0
    )
    flags.DEFINE_string("tokenizer", None, "where the run's tokenizer file is now, if it has moved")


def main() -> None:
    """Reads the file and saves the memory."""
    given = flags.FLAGS
    workdir, path = Path(given.workdir).expanduser(), Path(given.input).expanduser()
    kept = None if given.save_memory is None else Path(given.save_memory).expanduser()
    try:
        if path.is_dir():
            raise IsADirectoryError(f"--input={path} is a folder; give one file")
        trained = load_trained(workdir, given.tokenizer)
        model, size = trained.model, text_size(path)
        if not size:
            raise ValueError(f"--input={path} is empty")
        if kept and not kept.absolute().parent.is_dir():
            raise FileNotFoundError(f"--save_memory={kept}: there is no such folder")
        # Full attention keeps every token. A text has at most one per byte, and what starts it.
        stream = (
            load_memory(given.memory, model)
            if given.memory
            else start_stream(model, max_length=size + 1 + given.room)
        )
    except (ValueError, OSError, ImportError) as error:
        raise SystemExit(f"error: {error}") from error

    nats, count, started = 0.0, 0, time.perf_counter()
    options = {"freeze_memory": given.freeze_memory}
    if not given.memory:
        _, stream = score(model, [trained.tokenizer.start_token], stream, **options)
    for tokens in _tokens(path, trained.tokenizer):
        (losses,), stream = score(model, tokens, stream, **options)
        nats += float(np.sum(losses, dtype=np.float64))
        count += losses.size
        print(
            f"{count:>12,} tokens  {np.mean(losses) / math.log(2):.4f} bits per token here, "
            f"{nats / count / math.log(2):.4f} so far  {count / (time.perf_counter() - started):,.0f} tokens/s",
            flush=True,
        )
    print(f"{nats / size / math.log(2):.4f} bits per byte of {size:,} bytes in {path}")
    if kept:
        save_memory(stream, kept, model, source=os.fspath(workdir.absolute()))
        print(
            f"kept in {kept}: {kept.stat().st_size:,} bytes\n"
            f'  python -m experiments.sample --memory={kept} --prompt="..."'
        )


def _tokens(path: Path, tokenizer: Tokenizer) -> Iterator[Int32[np.ndarray, "T"]]:
    try:
        yield from file_tokens(path, tokenizer, piece=_PIECE)
    except (ValueError, OSError) as error:
        raise SystemExit(f"error: --input={path}: {error}") from error


if __name__ == "__main__":
    command.run(main, define_flags)
