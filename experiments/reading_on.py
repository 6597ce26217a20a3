"""Reading on: byte models trained in windows of 512 bytes that then read one text of 64K bytes, by position.

What a memory's rule, step, start and forgetting do to a model: bits per byte of a held-out book in windows as in
training, and in one reading, with the memory learning and frozen. A model is one block of settings of `MemoryConfig`,
or another variant with as many parameters; all have the same tokens and optimizer. Minutes a case.

    python -m experiments.reading_on --train="train_*.txt" --held_out=valid_1661.txt \
        --cases="lmm; lmm anchor=token step_scale=1 step_bias=-2 weights_start=features; gated_deltanet"

With --output=FILE.jsonl the results go to that file too, and FILE.md has the table of all that it holds.
"""

import dataclasses
import functools
import glob
import itertools
import json
import math
import time
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from absl import flags
from flax import nnx

from experiments import command
from experiments.training.config import OptimizerConfig
from experiments.training.optimizer import make_optimizer
from titans_jax import MemoryConfig, Titans, preset
from titans_jax.config import MEMORY_VARIANTS, TitansConfig
from titans_jax.matching import match_parameters

WINDOW, ROWS, READING, BLOCK = 512, 8, 65_536, 4_096
#: Where the reading is measured: from each of these bytes to the next.
POSITIONS = (0, 512, 4_096, 8_192, 16_384, 32_768, READING)


def model_of(variant: str, memory: dict[str, Any]) -> TitansConfig:
    """A model of about 150,000 parameters.

    Args:
        variant: of `TitansConfig`.
        memory: fields of `MemoryConfig` that differ from its defaults.
    """
    base = preset(
        "tiny",
        "lmm",
        dim=64,
        feed_forward=192,
        persistent_tokens=0,
        memory=MemoryConfig(num_heads=2),
    )
    if variant not in MEMORY_VARIANTS:
        config = preset("tiny", variant, dim=64, feed_forward=192)  # type: ignore[arg-type]
        return match_parameters(config, base)
    fields = {"num_heads": 2} | memory
    return dataclasses.replace(base, variant=variant, memory=MemoryConfig(**fields))  # type: ignore[arg-type]


def run(
    config: TitansConfig,
    train: np.ndarray,
    held_out: np.ndarray,
    steps: int,
    rate: float,
    seed: int,
) -> dict[str, Any]:
    """Trains one model and measures it.

    Args:
        config: the model.
        train: bytes to train on.
        held_out: bytes to measure on, `READING` + 1 at least.
        steps: of training, each of `ROWS` windows.
        rate: learning rate.
        seed: of everything.

    Returns:
        Bits per byte: "windows" of the held-out text, "reading" by position, "frozen" likewise; None without a memory.
    """
    started = time.process_time()
    graph, parameters = nnx.split(Titans(config, rngs=nnx.Rngs(seed)))
    optimizer = make_optimizer(OptimizerConfig(learning_rate=rate), steps)
    state = optimizer.init(parameters)

    def bits(parameters, tokens, state=None, **options):
        logits, state = nnx.merge(graph, parameters)(tokens[:, :-1], state, **options)
        nats = optax.softmax_cross_entropy_with_integer_labels(logits, tokens[:, 1:])
        return nats / math.log(2), state

    @jax.jit
    def step(parameters, state, tokens):
        loss, gradient = jax.value_and_grad(lambda p: bits(p, tokens)[0].mean())(parameters)
        updates, state = optimizer.update(gradient, state, parameters)
        return optax.apply_updates(parameters, updates), state, loss

    rng = np.random.default_rng(seed)
    losses = []
    for _ in range(steps):
        starts = rng.integers(0, len(train) - WINDOW - 1, ROWS)
        tokens = np.stack([train[at : at + WINDOW + 1] for at in starts]).astype(np.int32)
        parameters, state, loss = step(parameters, state, jnp.asarray(tokens))
        losses.append(float(loss))
    windows = held_out[: READING // WINDOW * WINDOW + 1].astype(np.int32)
    windows = np.stack(
        [windows[at : at + WINDOW + 1] for at in range(0, READING - WINDOW + 1, WINDOW)]
    )
    by_window = jax.jit(lambda p, t: bits(p, t)[0].mean())
    result = {
        "windows": float(
            np.mean([by_window(parameters, jnp.asarray(w)) for w in np.split(windows, 8)])
        ),
        "train": float(np.mean(losses[-max(1, steps // 10) :])),
        "reading": _by_position(graph, parameters, bits, held_out, freeze=False),
        "frozen": None,
    }
    if config.has_memory:
        result["frozen"] = _by_position(graph, parameters, bits, held_out, freeze=True)
    size = sum(leaf.size for leaf in jax.tree.leaves(parameters))
    return result | {"parameters": size, "cpu_seconds": time.process_time() - started}


def _by_position(
    graph: Any, parameters: Any, bits: Any, text: np.ndarray, *, freeze: bool
) -> list[float]:
    model = nnx.merge(graph, parameters)
    options = {"freeze_memory": True} if freeze else {}
    read = jax.jit(functools.partial(bits, **options))
    state, found = model.init_state(1, READING), []
    for at in range(0, READING, BLOCK):
        tokens = jnp.asarray(text[None, at : at + BLOCK + 1].astype(np.int32))
        values, state = read(parameters, tokens, state)
        found.append(np.asarray(values[0]))
    whole = np.concatenate(found)
    return [float(whole[a:b].mean()) for a, b in itertools.pairwise(POSITIONS)]


def parse(text: str) -> tuple[str, dict[str, Any]]:
    """A variant and fields of `MemoryConfig` from ``variant field=value ...``."""
    variant, *words = text.split()
    pairs = dict(word.split("=", 1) for word in words)

    def value(given: str) -> Any:
        try:
            return json.loads(given)
        except json.JSONDecodeError:
            return given

    return variant, {name: value(given) for name, given in pairs.items()}


def _bytes(pattern: str) -> np.ndarray:
    files = sorted(glob.glob(pattern))
    if not files:
        raise ValueError(f"no file matches {pattern!r}")
    return np.concatenate([np.fromfile(file, np.uint8) for file in files])


def page(rows: list[dict[str, Any]]) -> str:
    """The table of results.

    Args:
        rows: of the output file.
    """
    ranges = [f"{a:,}-{b:,}" for a, b in itertools.pairwise(POSITIONS)]
    lines = [
        f"Bits per byte of a held-out book by models that were trained in windows of {WINDOW} bytes: in such windows, "
        "and in one reading by position. Made by `python -m experiments.reading_on`.",
        "",
        f"| model | seed | steps | windows | {' | '.join(ranges)} | last, frozen |",
        "|---" * (5 + len(ranges)) + "|",
    ]
    for row in rows:
        frozen = "" if row["frozen"] is None else f"{row['frozen'][-1]:.3f}"
        reading = " | ".join(f"{bits:.3f}" for bits in row["reading"])
        lines.append(
            f"| {row['case']} | {row['seed']} | {row['steps']} | {row['windows']:.3f} | {reading} | {frozen} |"
        )
    return "\n".join(lines) + "\n"


def define_flags() -> None:
    """The program's flags."""
    flags.DEFINE_string("cases", "lmm", "models, separated by ';'")
    flags.DEFINE_string("train", None, "files to train on, a pattern", required=True)
    flags.DEFINE_string("held_out", None, "a text to read", required=True)
    flags.DEFINE_integer("steps", 300, "of training")
    flags.DEFINE_float("rate", 6e-3, "learning rate")
    flags.DEFINE_integer("seed", 0, "first seed")
    flags.DEFINE_integer("seeds", 1, "seeds of each case")
    flags.DEFINE_string("output", None, "a file of JSON lines to append to")


def main() -> None:
    """Runs the cases that are asked for."""
    train, held_out = _bytes(flags.FLAGS.train), _bytes(flags.FLAGS.held_out)
    for text in filter(None, map(str.strip, flags.FLAGS.cases.split(";"))):
        variant, memory = parse(text)
        config = model_of(variant, memory)
        for seed in range(flags.FLAGS.seed, flags.FLAGS.seed + flags.FLAGS.seeds):
            result = run(config, train, held_out, flags.FLAGS.steps, flags.FLAGS.rate, seed)
            print(
                f"{text} | seed {seed} windows {result['windows']:.3f} reading "
                + " ".join(f"{x:.3f}" for x in result["reading"])
                + (f" frozen {result['frozen'][-1]:.3f}" if result["frozen"] else "")
                + f" ({result['cpu_seconds']:.0f} s)",
                flush=True,
            )
            if flags.FLAGS.output:
                row = {
                    "case": text,
                    "seed": seed,
                    "steps": flags.FLAGS.steps,
                    "rate": flags.FLAGS.rate,
                }
                with open(flags.FLAGS.output, "a") as file:
                    file.write(json.dumps(row | result) + "\n")
    if flags.FLAGS.output:
        results = Path(flags.FLAGS.output)
        rows = [json.loads(line) for line in results.read_text().splitlines()]
        results.with_suffix(".md").write_text(page(rows))


if __name__ == "__main__":
    command.run(main, define_flags)
