"""Does the memory train without NaN at every depth and chunk? Trains twelve small models and tells.

    python -m experiments.stability

Public implementations of Titans are known for NaN at depth 4 and for divergence at length 4096. This
trains a byte-level LMM (the memory alone as the sequence layer) for every depth 1..4 x chunk 16, 64,
256 on sequences of 4096 real bytes, bfloat16 activations, plain AdamW at 4e-4: no warm-up, no
gradient clipping, no loss scaling, nothing that would hide an unstable memory. All runs see the same
bytes in the same order.

A row per run: bits per byte of the first step and of the last 20 (mean); the largest gradient
norm; the largest Frobenius norm of a head's fast weights M at the end of a sequence, and that norm
in the last 20 steps (median); the number of steps with a number that is not finite; and whether it
diverged, which means any such step, or a last loss above the first, or more than half a bit above
the run's own best 20 steps. A last norm near zero is a failure too: that memory has forgotten
everything and, from depth 2 on, cannot learn again, since M = 0 has no gradient there. The table
and the JSON are written after every run; starting the same command again skips the rows that are
there.
"""

import dataclasses
import json
import math
import os
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

from experiments import command
from titans_jax import MemoryConfig, Titans, TitansConfig
from titans_jax.config import ActivationDtype
from titans_jax.data import read_documents
from titans_jax.fields import (
    check_fields,
    field,
    non_negative_int,
    one_of,
    positive,
    positive_int,
    random_seed,
    several,
    string,
)

RESULTS = Path(__file__).resolve().parent / "results"
VOCABULARY = 256
WINDOW = 20
DIVERGED_BITS = 0.5


@dataclasses.dataclass(frozen=True)
class Settings:
    """Everything that the rows of one table share.

    Attributes:
      data: a text file, a folder, a glob, or stdlib.
      steps: optimizer steps of a run.
      length: tokens of a sequence.
      batch: sequences of a step.
      dim: model dimension.
      heads: of the memory.
      layers: blocks.
      feed_forward: hidden features; 0 for no feed-forward.
      learning_rate: of AdamW.
      dtype: of activations.
      seed: of parameters and windows.
    """

    data: str = field("stdlib", string)
    steps: int = field(300, positive_int)
    length: int = field(4096, positive_int)
    batch: int = field(1, positive_int)
    dim: int = field(64, positive_int)
    heads: int = field(1, positive_int)
    layers: int = field(2, positive_int)
    feed_forward: int = field(128, non_negative_int)
    learning_rate: float = field(4e-4, positive)
    dtype: ActivationDtype = field("bfloat16", one_of(ActivationDtype))
    seed: int = field(0, random_seed)

    def __post_init__(self) -> None:
        check_fields(self)


@dataclasses.dataclass(frozen=True)
class Grid:
    """Which runs, and where the results go.

    Attributes:
      depths: of the memory, with commas between.
      chunks: sizes, with commas between.
      json: the file of the results.
      markdown: the file of the table.
    """

    depths: tuple[int, ...] = field((1, 2, 3, 4), several(positive_int))
    chunks: tuple[int, ...] = field((16, 64, 256), several(positive_int))
    json: str = field(str(RESULTS / "stability.json"), string)
    markdown: str = field(str(RESULTS / "stability.md"), string)

    def __post_init__(self) -> None:
        check_fields(self)


@dataclasses.dataclass(frozen=True)
class Curves:
    """One number per step: loss in bits per byte, gradient norm, largest norm of a head's M."""

    bits_per_byte: list[float]
    gradient_norm: list[float]
    weight_norm: list[float]


def model_config(settings: Settings, depth: int, chunk: int) -> TitansConfig:
    """The language model of one run."""
    return TitansConfig(
        variant="lmm",
        vocab_size=VOCABULARY,
        dim=settings.dim,
        num_layers=settings.layers,
        num_heads=settings.heads,
        feed_forward=settings.feed_forward,
        memory=MemoryConfig(num_heads=settings.heads, depth=depth, chunk=chunk),
        dtype=settings.dtype,
    )


def read_bytes(settings: Settings) -> np.ndarray:
    """The data's bytes as token ids, documents one after the other.

    Raises:
      ValueError: if there are too few for one sequence and its last target.
    """
    text = b"".join(document.text for document in read_documents(settings.data))
    if len(text) <= settings.length:
        raise ValueError(
            f"data={settings.data!r} has {len(text)} bytes; it must have more than"
            f" length={settings.length}"
        )
    return np.frombuffer(text, np.uint8).astype(np.int32)


def windows(settings: Settings, tokens: np.ndarray) -> Iterator[np.ndarray]:
    """Batches [B, T + 1] of random windows of the tokens, one per step, the same for every run."""
    generator = np.random.default_rng(settings.seed)
    for _ in range(settings.steps):
        starts = generator.integers(len(tokens) - settings.length, size=settings.batch)
        yield np.stack([tokens[start : start + settings.length + 1] for start in starts])


def largest_norm(matrices: Sequence[jax.Array]) -> jax.Array:
    """The largest Frobenius norm of any [d_in, d_out] matrix, whatever the leading axes."""
    squares = [jnp.max(jnp.sum(jnp.square(matrix), axis=(-2, -1))) for matrix in matrices]
    return jnp.sqrt(jnp.max(jnp.stack(squares)))


def train(settings: Settings, depth: int, chunk: int, tokens: np.ndarray) -> Curves:
    """Trains one model and records its curves; goes on after a NaN, so that all are counted."""

    def make() -> Titans:
        return Titans(model_config(settings, depth, chunk), rngs=nnx.Rngs(settings.seed))

    graph, _ = nnx.split(nnx.eval_shape(make))
    parameters = jax.jit(lambda: nnx.state(make()))()  # one compilation, not one per operation
    optimizer = optax.adamw(settings.learning_rate)
    optimizer_state = optimizer.init(parameters)

    def loss(parameters: nnx.State, window: jax.Array) -> tuple[jax.Array, jax.Array]:
        logits, state = nnx.merge(graph, parameters)(window[:, :-1])
        losses = optax.softmax_cross_entropy_with_integer_labels(logits, window[:, 1:])
        return jnp.mean(losses), largest_norm(state.memory.weights)

    @jax.jit
    def step(
        parameters: nnx.State, optimizer_state: optax.OptState, window: jax.Array
    ) -> tuple[nnx.State, optax.OptState, jax.Array]:
        (nats, weight_norm), gradient = jax.value_and_grad(loss, has_aux=True)(parameters, window)
        updates, optimizer_state = optimizer.update(gradient, optimizer_state, parameters)
        numbers = jnp.stack([nats / math.log(2), optax.tree.norm(gradient), weight_norm])
        return optax.apply_updates(parameters, updates), optimizer_state, numbers

    recorded = []
    for window in windows(settings, tokens):
        parameters, optimizer_state, numbers = step(parameters, optimizer_state, window)
        recorded.append(numbers)
    return Curves(*np.asarray(jax.device_get(recorded), np.float64).T.tolist())


def judge(curves: Curves) -> dict[str, Any]:
    """The row of one run, from its curves (module docstring)."""
    bits = np.asarray(curves.bits_per_byte)
    everything = np.stack([bits, curves.gradient_norm, curves.weight_norm])
    bad_steps = int((~np.isfinite(everything)).any(axis=0).sum())
    window = min(WINDOW, len(bits))
    means = np.convolve(bits, np.full(window, 1 / window), mode="valid")
    first, last = float(bits[0]), float(means[-1])
    return {
        "first_bpb": first,
        "last_bpb": last,
        "max_gradient_norm": float(np.max(curves.gradient_norm)),
        "max_weight_norm": float(np.max(curves.weight_norm)),
        "last_weight_norm": float(np.median(curves.weight_norm[-window:])),
        "bad_steps": bad_steps,
        "diverged": bool(bad_steps or last >= first or last > float(means.min()) + DIVERGED_BITS),
    }


def read_rows(path: Path, settings: Settings) -> list[dict[str, Any]]:
    """The finished rows of an earlier run of the same settings; none if there is no file.

    Raises:
      ValueError: if the file's rows were made with other settings.
    """
    if not path.exists():
        return []
    stored = json.loads(path.read_text())
    wanted = dataclasses.asdict(settings)
    different = [name for name in wanted if stored["settings"].get(name) != wanted[name]]
    if different:
        name = different[0]
        raise ValueError(
            f"{path} was made with {name}={stored['settings'].get(name)!r}, this run has"
            f" {name}={wanted[name]!r}; give the same, or another --json and --markdown"
        )
    return stored["rows"]


def write_text(path: Path, text: str) -> None:
    """Replaces a file at once, so that an interrupted run never leaves half of it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(path.name + ".part")
    temporary.write_text(text)
    os.replace(temporary, path)


def markdown(settings: Settings, rows: Sequence[dict[str, Any]], command: str) -> str:
    """The table as a page."""
    values = ", ".join(f"{name} {value}" for name, value in dataclasses.asdict(settings).items())
    lines = [
        "# Stability of the memory: depth x chunk",
        "",
        "Written by:",
        "",
        f"    {command}",
        "",
        f"LMM on real bytes, plain AdamW without warm-up or clipping: {values}.",
        "What the columns mean: the docstring of `experiments/stability.py`.",
        "",
        "| depth | chunk | first bits/byte | last bits/byte | max gradient norm | max norm of M"
        " | last norm of M | steps not finite | diverged | seconds |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for row in sorted(rows, key=lambda row: (row["depth"], row["chunk"])):
        lines.append(
            f"| {row['depth']} | {row['chunk']} | {row['first_bpb']:.3f} | {row['last_bpb']:.3f}"
            f" | {row['max_gradient_norm']:.3g} | {row['max_weight_norm']:.3g}"
            f" | {row['last_weight_norm']:.3g}"
            f" | {row['bad_steps']} | {'yes' if row['diverged'] else 'no'} | {row['seconds']:.0f} |"
        )
    return "\n".join([*lines, ""])


def run_grid(settings: Settings, grid: Grid, said: str) -> None:
    """Runs what is missing of the grid and writes the table after every run.

    Args:
      settings: see Settings.
      grid: see Grid.
      said: the command, which the table tells.
    """
    rows = read_rows(Path(grid.json), settings)
    tokens = read_bytes(settings)
    for depth in grid.depths:
        for chunk in grid.chunks:
            if any((row["depth"], row["chunk"]) == (depth, chunk) for row in rows):
                continue
            start = time.perf_counter()
            row = {"depth": depth, "chunk": chunk, **judge(train(settings, depth, chunk, tokens))}
            row["seconds"] = time.perf_counter() - start
            rows.append(row)
            stored = {"command": said, "settings": dataclasses.asdict(settings), "rows": rows}
            write_text(Path(grid.json), json.dumps(stored, indent=2) + "\n")
            write_text(Path(grid.markdown), markdown(settings, rows, said))
            print(json.dumps(row), flush=True)
            jax.clear_caches()
    diverged = [(row["depth"], row["chunk"]) for row in rows if row["diverged"]]
    print(f"runs={len(rows)} diverged={len(diverged)} {diverged or ''}".rstrip())


def define_flags() -> None:
    """A flag for every field."""
    command.define_fields(Settings)
    command.define_fields(Grid)


def main() -> None:
    """Reads the flags and runs."""
    run_grid(command.read_fields(Settings), command.read_fields(Grid), command.command_line())


if __name__ == "__main__":
    command.run(main, define_flags)
