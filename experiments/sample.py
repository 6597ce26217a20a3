"""Generates text from a checkpoint, at a cost per token that does not depend on how much came before.

python -m experiments.sample --workdir=runs/tiny --prompt="def main("
python -m experiments.sample --memory=book.safetensors --prompt="The murderer is "

With --memory the model has read what `python -m experiments.read` read, and the prompt follows it.
"""

import sys
import time
from pathlib import Path

from absl import flags

from experiments import command
from experiments.training.devices import single_kernel_loops
from experiments.training.trained import Trained, load_trained
from titans_jax.data.tokenizers import encode_after
from titans_jax.inference import (
    Sampling,
    Stream,
    generate_text,
    load_memory,
    memory_source,
    prefill,
    start_stream,
)


def define_flags() -> None:
    """The program's flags."""
    flags.DEFINE_string(
        "workdir", None, "the run to sample from; with --memory by default the one that read it"
    )
    flags.DEFINE_string("memory", None, "go on from what experiments.read saved here")
    flags.DEFINE_bool("freeze_memory", False, "do not learn from the prompt and the output")
    flags.DEFINE_string("prompt", "def main(", "the text to continue")
    flags.DEFINE_integer("length", 400, "tokens to generate", lower_bound=1)
    flags.DEFINE_float("temperature", 0.8, "0 = always the likeliest token", lower_bound=0)
    flags.DEFINE_integer(
        "top_k", 40, "draw from the k likeliest tokens; 0 = from all", lower_bound=0
    )
    flags.DEFINE_float("top_p", 1.0, "draw from the fewest tokens that have this probability")
    flags.DEFINE_float("repetition_penalty", 1.0, "above 1: tokens seen before are rarer")
    flags.DEFINE_string("stop", "", "end after any of these characters (each one token)")
    flags.DEFINE_integer(
        "seed", 0, "another seed gives another text", lower_bound=0, upper_bound=2**32 - 1
    )
    flags.DEFINE_string("tokenizer", None, "where the run's tokenizer file is now, if it has moved")


def main() -> None:
    """Loads the newest readable checkpoint of the run and prints a continuation of the prompt."""
    try:
        if not (flags.FLAGS.workdir or flags.FLAGS.memory):
            raise ValueError("give --workdir=DIR, the run to sample from, or --memory=FILE")
        trained = load_trained(
            Path(flags.FLAGS.workdir or memory_source(flags.FLAGS.memory or "")).expanduser(),
            flags.FLAGS.tokenizer,
        )
        sampling = Sampling(
            temperature=flags.FLAGS.temperature,
            top_k=flags.FLAGS.top_k,
            top_p=flags.FLAGS.top_p,
            repetition_penalty=flags.FLAGS.repetition_penalty,
            stop_tokens=_stop_tokens(trained),
        )
        stream = _read_prompt(trained)
    except (ValueError, OSError, ImportError) as error:
        raise SystemExit(f"error: {error}") from error

    before = int(stream.length[0])
    print(flags.FLAGS.prompt, end="", flush=True)
    pieces = generate_text(
        trained.model,
        trained.tokenizer,
        stream,
        flags.FLAGS.length,
        prompt=trained.tokenizer.encode(flags.FLAGS.prompt.encode()).tolist(),
        sampling=sampling,
        seed=flags.FLAGS.seed,
        freeze_memory=flags.FLAGS.freeze_memory,
    )
    start = 0.0
    while True:
        try:
            print(next(pieces), end="", flush=True)
        except StopIteration as stop:
            count = int(stop.value.length[0]) - before
            break
        start = start or time.perf_counter()  # the first token waits for the compilation
    print(flush=True)
    print(
        f"{trained.config.model.variant} after {trained.steps} steps; {count} tokens"
        + (f" at {(count - 1) / (time.perf_counter() - start):.0f} tokens/s" if count > 1 else ""),
        file=sys.stderr,
    )


def _read_prompt(trained: Trained) -> Stream:
    model, tokenizer = trained.model, trained.tokenizer
    prompt = tokenizer.encode(flags.FLAGS.prompt.encode()).tolist()
    if flags.FLAGS.memory:
        stream = load_memory(flags.FLAGS.memory, model)
    else:
        prompt = [tokenizer.start_token, *prompt]
        stream = start_stream(model, max_length=len(prompt) + flags.FLAGS.length)
    return prefill(model, prompt, stream, freeze_memory=flags.FLAGS.freeze_memory)


def _stop_tokens(trained: Trained) -> tuple[int, ...]:
    tokens = []
    for character in flags.FLAGS.stop:
        ids = encode_after(b"a", character.encode(), trained.tokenizer)  # as within a text
        if len(ids) != 1:
            raise ValueError(
                f"--stop={flags.FLAGS.stop!r} must hold characters of one token each, got {character!r}, "
                f"which is {len(ids)}"
            )
        tokens.append(int(ids[0]))
    return tuple(tokens)


if __name__ == "__main__":
    single_kernel_loops()
    command.run(main, define_flags)
