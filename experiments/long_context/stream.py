"""Two million tokens of real text through a small model of each variant: time, memory and loss against position.

    python -m experiments.long_context.stream --tokens=2097152

Models that are not yet under --workdir are trained first (train.py beside this file); --data_path trains and streams on
anything else. The text that is streamed was held out from training. Each Titans reads it four times: with the memory
learning, frozen at its start, frozen from 64K tokens on, and started anew every --reset_every tokens. Full attention is
given as much as its cache and its time allow, each length a stream of its own. What is timed runs alone; the other
streams run two at a time afterwards.

The last line printed is `tokens=N time_ratio=X memory_ratio=Y`: the end against 64K tokens, time per token (blocks of
both in turns) and resident memory, of the variant in which it is largest, with the memory learning.
"""

import dataclasses
import json
import math
import os
import platform
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from absl import flags

from experiments import command
from experiments.long_context import report
from experiments.long_context.streaming import octaves, share_one_arena, stream_text, time_ratio
from experiments.long_context.training import RECORD, make_config
from experiments.training.text import load_text
from experiments.training.workdir import versions
from titans_jax import Titans
from titans_jax.data.tokenizers import ByteTokenizer
from titans_jax.inference import from_pretrained

VARIANTS = ("lmm", "mac", "mag", "mal")
MODES = ("learning", "frozen", "frozen late", "reset")
BLOCK = 1024


def define_flags() -> None:
    """The program's flags."""
    flags.DEFINE_integer("tokens", 2_097_152, "tokens to stream, a power of two")
    flags.DEFINE_string("workdir", "runs/long_context", "folder of the models, one per variant")
    flags.DEFINE_string("data_path", "stdlib", "text to train on and, held out, to stream")
    flags.DEFINE_integer("train_steps", 300, "of each model that is not trained yet")
    flags.DEFINE_integer("reset_every", 1024, "tokens between resets; a multiple of 1024")
    flags.DEFINE_integer("full_attention", 16_384, "longest stream of the Transformer++")
    flags.DEFINE_string("output", None, "folder for the table, the picture and the JSON")


def main() -> None:
    """Trains what is missing, streams, and reports."""
    share_one_arena()
    output = Path(flags.FLAGS.output or Path(flags.FLAGS.workdir) / "stream")
    try:
        _check()
        records = {variant: _train(variant) for variant in (*VARIANTS, "transformer")}
        ids = _held_out(records[VARIANTS[0]], flags.FLAGS.tokens)
        models = {
            variant: from_pretrained(Path(flags.FLAGS.workdir) / variant) for variant in records
        }
    except (ValueError, OSError) as error:
        raise SystemExit(f"error: {error}") from error

    began, rows = time.perf_counter(), []
    ratios: dict[str, float] = {}
    for variant in VARIANTS:
        rows += _run(models[variant], variant, MODES[0], ids, ratios)
    for length in octaves(min(flags.FLAGS.full_attention, ids.size)):
        text = ids[:length]
        rows += _run(models["transformer"], "transformer", "full attention", text, ratios)[-1:]
    with ThreadPoolExecutor(2) as two:  # of these only the loss is reported: they need not be alone
        others = [
            two.submit(_run, models[variant], variant, mode, ids, ratios)
            for variant in VARIANTS
            for mode in MODES[1:]
        ]
        for other in others:
            rows += other.result()
    result = {
        "command": _command(),
        "machine": _machine(),
        "versions": versions(),
        "tokens": ids.size,
        "block": BLOCK,
        "reset_every": flags.FLAGS.reset_every,
        "seeds": sorted({record["config"]["seed"] for record in records.values()}),
        "train_steps": {v: record["config"]["steps"] for v, record in records.items()},
        "train_seconds": {v: record["seconds"] for v, record in records.items()},
        "seconds": time.perf_counter() - began,
        "rows": rows,
        "time_ratios": ratios,
        "time_ratio": max(ratios.values()),
        "memory_ratio": report.memory_ratio(rows, ids.size),
    }
    output.mkdir(parents=True, exist_ok=True)
    (output / "stream.json").write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    (output / "stream.md").write_text(report.markdown(result), encoding="utf-8")
    report.plot(result, output / "stream.png")
    print(f"written to {output}")
    print(
        f"tokens={ids.size} time_ratio={result['time_ratio']:.3f} memory_ratio={result['memory_ratio']:.3f}"
    )


def _run(
    model: Titans, variant: str, mode: str, ids: np.ndarray, ratios: dict[str, float]
) -> list[dict[str, Any]]:
    """One stream's rows; of a learning one also the ratio of the time at its end and at the reference."""
    began = time.perf_counter()
    reference = min(report.REFERENCE, max(BLOCK, ids.size // 2))
    rows, kept = stream_text(
        model,
        ids,
        mode=mode,
        block=BLOCK,
        reset_every=flags.FLAGS.reset_every,
        freeze_from=reference,
        max_length=ids.size if variant == "transformer" else None,
        keep=(reference, ids.size) if mode == "learning" else (),
    )
    if kept:
        ratios[variant] = time_ratio(model, ids, kept[reference], kept[ids.size], BLOCK)
    last = rows[-1]
    print(
        f"{variant:<12}{mode:<15}{last['position']:>10,} tokens  {last['microseconds']:7.2f} us per token  "
        f"{last['resident_mib']:6.0f} MiB  {last['nats'] / math.log(2):.4f} bits per byte  "
        f"({time.perf_counter() - began:.0f} s)",
        flush=True,
    )
    return [{"variant": variant, "mode": mode, **row} for row in rows]


def _check() -> None:
    tokens, reset = flags.FLAGS.tokens, flags.FLAGS.reset_every
    if tokens < BLOCK or tokens & (tokens - 1):
        raise ValueError(f"--tokens must be a power of two of at least {BLOCK}, got {tokens}")
    if reset < BLOCK or reset % BLOCK:
        raise ValueError(f"--reset_every must be a multiple of {BLOCK}, got {reset}")


def _train(variant: str) -> dict[str, Any]:
    """The record of the variant's training, which is done in a process of its own if it is not done yet."""
    workdir = Path(flags.FLAGS.workdir) / variant
    if not (workdir / RECORD).exists():
        command = [
            sys.executable,
            "-m",
            "experiments.long_context.train",
            f"--variant={variant}",
            f"--workdir={workdir}",
            f"--data_path={flags.FLAGS.data_path}",
            f"--steps={flags.FLAGS.train_steps}",
        ]
        subprocess.run(command, check=True)
    return json.loads((workdir / RECORD).read_text(encoding="utf-8"))


def _held_out(record: dict[str, Any], count: int) -> np.ndarray:
    """The first tokens of all text that the models were not trained on."""
    path = record["config"]["data.path"]
    config = make_config("lmm", path, 1)
    config = dataclasses.replace(config, data=dataclasses.replace(config.data, valid_bytes=0))
    ids = ByteTokenizer().encode(load_text(config, ByteTokenizer()).valid_bytes)
    if ids.size < count:
        raise ValueError(
            f"--tokens={count} are more than the {ids.size} that were held out of {path!r}: stream "
            "fewer, or give --data_path more text and another --workdir"
        )
    return ids[:count]


def _command() -> str:
    return "python -m experiments.long_context.stream " + " ".join(sys.argv[1:])


def _machine() -> str:
    return f"{platform.machine()}, {os.cpu_count()} CPU cores"


if __name__ == "__main__":
    command.run(main, define_flags)
