"""Where LMM and MAG overtake full attention on this machine: training step time and decoding time against length.

    python -m experiments.long_context.crossing

Models of the size of `experiments/configs/long_context.py`, untrained: time does not depend on the weights. A training
step is one sequence's loss and gradients; decoding is one token after a text of the given length, for full attention
with a cache of that length. Each figure is the least of a few repetitions. The crossing is where the lines meet,
interpolated between two measured lengths on the logarithm of both.
"""

import json
import os
import platform
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import matplotlib
import numpy as np
from absl import flags
from flax import nnx

from experiments import command
from experiments.long_context import report
from experiments.long_context.training import make_config
from experiments.training.devices import compiler_options
from experiments.training.workdir import versions
from titans_jax import Titans
from titans_jax.inference import GREEDY, generate, start_stream
from titans_jax.models.loss import next_token_loss

matplotlib.use("Agg")

from matplotlib import pyplot as plt

VARIANTS = ("lmm", "mag", "transformer")
#: Tokens generated per measurement of decoding.
DECODED = 64


def define_flags() -> None:
    """The program's flags."""
    flags.DEFINE_integer("longest", 16_384, "longest training sequence, a power of two")
    flags.DEFINE_integer("longest_cache", 262_144, "longest decoded text, a power of two")
    flags.DEFINE_integer("repeat", 3, "repetitions of each measurement", lower_bound=1)
    flags.DEFINE_string("output", "runs/long_context/crossing", "folder for what is written")


def main() -> None:
    """Measures and reports."""
    models = {
        name: Titans(make_config(name, "stdlib", 1).model, rngs=nnx.Rngs(0)) for name in VARIANTS
    }
    training, decoding = [], []
    for length in _powers(512, flags.FLAGS.longest):
        training.append(
            {"length": length} | {n: _train_seconds(m, length) for n, m in models.items()}
        )
        print("training step", _line(training[-1]), flush=True)
    for length in _powers(1024, flags.FLAGS.longest_cache):
        decoding.append(
            {"length": length} | {n: _decode_seconds(m, length) for n, m in models.items()}
        )
        print("decoding     ", _line(decoding[-1]), flush=True)
    result: dict[str, Any] = {
        "command": "python -m experiments.long_context.crossing " + " ".join(sys.argv[1:]),
        "machine": f"{platform.machine()}, {os.cpu_count()} CPU cores",
        "versions": versions(),
        "training": training,
        "decoding": decoding,
        "crossings": {
            f"{kind}_{name}": report.crossing(rows, name)
            for kind, rows in (("training", training), ("decoding", decoding))
            for name in VARIANTS[:-1]
        },
    }
    output = Path(flags.FLAGS.output)
    output.mkdir(parents=True, exist_ok=True)
    (output / "crossing.json").write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    (output / "crossing.md").write_text(markdown(result), encoding="utf-8")
    plot(result, output / "crossing.png")
    print("  ".join(f"{name}={_number(value)}" for name, value in result["crossings"].items()))


def _train_seconds(model: Titans, length: int) -> float:
    graphdef, params = nnx.split(model)
    tokens = jnp.asarray(np.random.default_rng(0).integers(0, 256, (1, length + 1)), jnp.int32)
    batch = {
        "inputs": tokens[:, :-1],
        "targets": tokens[:, 1:],
        "loss_mask": jnp.ones((1, length), jnp.bool_),
    }

    def loss(params: Any, batch: Any) -> jax.Array:
        return next_token_loss(nnx.merge(graphdef, params), batch)[0]

    step = jax.jit(jax.value_and_grad(loss), compiler_options=compiler_options())
    return _least(lambda: jax.block_until_ready(step(params, batch)))


def _decode_seconds(model: Titans, length: int) -> float:
    """Seconds per token. What the cache holds does not matter to the time, so it is left empty."""
    stream = start_stream(model, max_length=length)
    # Generation wants a stream that has read something.
    stream = stream._replace(length=jnp.full((1,), 1, jnp.int32))

    def decode() -> None:
        nonlocal stream
        stream = jax.block_until_ready(generate(model, stream, DECODED, GREEDY).stream)

    return _least(decode) / DECODED


def _least(run: Callable[[], object]) -> float:
    run()  # compiles
    seconds = []
    for _ in range(flags.FLAGS.repeat):
        began = time.perf_counter()
        run()
        seconds.append(time.perf_counter() - began)
    return min(seconds)


def markdown(result: dict[str, Any]) -> str:
    """The two tables and the crossings."""
    lines = [
        "# Where the memory overtakes full attention",
        "",
        f"    {result['command'].strip()}",
        "",
        f"{result['machine']}; jax {result['versions']['jax']}. Models of two layers of 128 features; one sequence.",
    ]
    for kind, scale, unit in (
        ("training", 1e3, "milliseconds per step"),
        ("decoding", 1e6, "microseconds per token"),
    ):
        lines += [
            "",
            f"{kind.capitalize()}, {unit}:",
            "",
            "| length | lmm | mag | full attention |",
            "|---|---|---|---|",
        ]
        for row in result[kind]:
            cells = " | ".join(f"{scale * row[name]:,.1f}" for name in VARIANTS)
            lines.append(f"| {row['length']:,} | {cells} |")
        for name in VARIANTS[:-1]:
            value = result["crossings"][f"{kind}_{name}"]
            lines += (
                ["", f"{name} is faster from {_number(value)} tokens on."]
                if value
                else ["", f"{name} is not faster at any measured length."]
            )
    return "\n".join(lines) + "\n"


def plot(result: dict[str, Any], path: Path) -> None:
    """Both times against length, and the crossings."""
    figure, axes = plt.subplots(1, 2, figsize=(11, 4.5), layout="constrained")
    for axis, kind, scale, unit in (
        (axes[0], "training", 1e3, "milliseconds per step"),
        (axes[1], "decoding", 1e6, "microseconds per token"),
    ):
        rows = result[kind]
        for name in VARIANTS:
            label = "full attention" if name == "transformer" else name
            axis.plot(
                [r["length"] for r in rows], [scale * r[name] for r in rows], "o-", label=label
            )
        axis.set_xscale("log", base=2)
        axis.set_yscale("log")
        axis.set_xlabel("length (tokens)")
        axis.set_ylabel(unit)
        axis.set_title(f"{kind.capitalize()}, one sequence")
        axis.grid(alpha=0.3, which="both")
        axis.legend()
    figure.savefig(path, dpi=110)
    plt.close(figure)


def _powers(first: int, last: int) -> list[int]:
    return [1 << i for i in range(first.bit_length() - 1, last.bit_length())]


def _number(value: float | None) -> str:
    return "none" if value is None else f"{value:,.0f}"


def _line(row: dict[str, Any]) -> str:
    return f"{row['length']:>9,}  " + "  ".join(f"{n} {1e3 * row[n]:.3f} ms" for n in VARIANTS)


if __name__ == "__main__":
    command.run(main, define_flags)
