"""Generates text from a checkpoint, one token at a time, at a cost per token that does not depend on the position.

python -m experiments.sample --workdir=runs/tiny --prompt="def main("
"""

import sys
import time
from collections.abc import Sequence
from pathlib import Path

from absl import app, flags, logging

from experiments.training.checkpoints import check_identity, restore_params
from experiments.training.config import from_flat, parse_flags
from experiments.training.generation import generate, make_decode_step
from experiments.training.step import split_model
from experiments.training.workdir import read_config
from titans_jax.data.tokenizers import load_tokenizer

_WORKDIR = flags.DEFINE_string("workdir", None, "the run to sample from", required=True)
_PROMPT = flags.DEFINE_string("prompt", "def main(", "the text to continue")
_LENGTH = flags.DEFINE_integer("length", 400, "tokens to generate", lower_bound=1)
_TEMPERATURE = flags.DEFINE_float(
    "temperature", 0.8, "0 = always the likeliest token", lower_bound=0
)
_TOP_K = flags.DEFINE_integer(
    "top_k", 40, "draw from the k likeliest tokens; 0 = from all", lower_bound=0
)
_SEED = flags.DEFINE_integer("seed", 0, "another seed gives another text")
_TOKENIZER = flags.DEFINE_string(
    "tokenizer", None, "where the run's tokenizer file is now, if it has moved"
)


def main(argv: Sequence[str]) -> None:
    """Loads the newest readable checkpoint of the run and prints a continuation of the prompt."""
    if len(argv) > 1:
        raise app.UsageError(f"unexpected arguments {argv[1:]}: everything is a --flag=value")
    logging.set_verbosity(logging.ERROR)  # Orbax logs every file it touches
    workdir = Path(_WORKDIR.value)
    try:
        config = from_flat(read_config(workdir))
        tokenizer = load_tokenizer(_TOKENIZER.value or config.data.tokenizer)
        graphdef, shapes = split_model(config.model)
        folder = workdir / config.model.variant / "checkpoints"
        trained_steps, params, identity = restore_params(folder, shapes)
        check_identity(identity, {"tokenizer": tokenizer.fingerprint()}, str(folder))
    except (ValueError, OSError, ImportError) as error:
        raise SystemExit(f"error: {error}") from error

    prompt = [tokenizer.start_token, *tokenizer.encode(_PROMPT.value.encode()).tolist()]
    step = make_decode_step(graphdef, temperature=_TEMPERATURE.value, top_k=_TOP_K.value)
    ids, start = [], 0.0
    for token in generate(graphdef, params, step, prompt, _LENGTH.value, _SEED.value):
        start = start or time.perf_counter()  # the first token waits for the compilation
        ids.append(token)
    speed = (len(ids) - 1) / (time.perf_counter() - start)
    print(_PROMPT.value + tokenizer.decode(ids).decode(errors="replace"), flush=True)
    print(
        f"{config.model.variant} after {trained_steps} steps; {len(ids)} tokens"
        + (f" at {speed:.0f} tokens/s" if len(ids) > 1 else ""),
        file=sys.stderr,
    )


if __name__ == "__main__":
    app.run(main, flags_parser=parse_flags)
