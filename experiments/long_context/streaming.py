"""Streams one text through one model and takes down, octave by octave of the position, time, memory and loss.

An octave is the tokens from half a position to that position; its time and memory are medians over its blocks (XLA's
temporary buffers come and go), its loss the mean over its tokens. The clock stops between blocks, when the device is
done. An early octave is over in half a second, too short on a machine that others use too: so whether tokens cost more
at the end than early on is measured afterwards, block by block in turns from copies of both streams (`time_ratio`).
"""

import ctypes
import statistics
import time
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import psutil
from flax import nnx

from titans_jax import Titans
from titans_jax.inference import Stream, reset_memory, start_stream
from titans_jax.inference.stream import read_block

#: Blocks of either stream in `time_ratio`.
TURNS = 400
#: First position that is reported: before it, blocks are too few for a median.
FIRST = 1024


def share_one_arena() -> None:
    """Gives all threads one heap, where the C library is glibc; call it first.

    Else each of XLA's threads keeps what it freed in a heap of its own, and the process grows with the number of
    threads that have once had a block, whatever the stream holds.
    """
    arena_max = -8  # M_ARENA_MAX of malloc.h
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(arena_max, 1)


def octaves(tokens: int) -> list[int]:
    """Powers of two from `FIRST` to the number of tokens."""
    return [1 << i for i in range(FIRST.bit_length() - 1, tokens.bit_length())]


def stream_text(
    model: Titans,
    ids: np.ndarray,
    *,
    mode: str,
    block: int,
    reset_every: int = 0,
    freeze_from: int = 0,
    max_length: int | None = None,
    keep: Sequence[int] = (),
) -> tuple[list[dict[str, float]], dict[int, Stream]]:
    """Reads a text and returns one row per octave.

    Args:
      model: what reads.
      ids: the text's tokens, a power of two of them.
      mode: "learning", "frozen" (the memory is never written), "frozen late" (not from `freeze_from` on) or "reset" (it
        starts anew every `reset_every` tokens).
      block: tokens per call of the device.
      reset_every: a multiple of `block`.
      freeze_from: a multiple of `block`.
      max_length: of a full attention's cache.
      keep: positions at which the stream is copied.

    Returns:
      Per octave: position; microseconds per token; resident_mib of this process; nats per token. And the copies.
    """
    graphdef, params = nnx.split(model)
    options: dict[str, Any] = {"aligned": model.config.alignment > 1, "scored": True}

    def read(stream: Stream, start: int) -> tuple[Stream, np.ndarray, float]:
        began = time.perf_counter()
        if mode == "reset" and start and start % reset_every == 0:
            stream = reset_memory(model, stream)
        stream, losses = read_block(
            graphdef,
            params,
            stream,
            ids[None, start : start + block],
            None,
            freeze_memory=mode == "frozen" or (mode == "frozen late" and start >= freeze_from),
            **options,
        )
        values = np.asarray(losses[0])
        return stream, values, time.perf_counter() - began

    # What is called later compiles now.
    for start in (0, freeze_from) if mode == "frozen late" else (0,):
        warm, _, _ = read(start_stream(model, max_length=max_length), start)
    if keep:
        jax.tree.map(jnp.copy, warm)
    if mode == "reset":
        reset_memory(model, warm)
    stream = start_stream(model, max_length=max_length)
    rows, seconds, resident, nats = [], [], [], []
    process, wanted, kept = psutil.Process(), octaves(ids.size), {}
    for start in range(0, ids.size, block):
        stream, losses, elapsed = read(stream, start)
        seconds.append(elapsed)
        resident.append(process.memory_info().rss)
        nats.append(float(np.sum(losses, dtype=np.float64)))
        if (position := start + block) in wanted:
            since = len(seconds) // 2 if position > block else 0
            rows.append(
                {
                    "position": position,
                    "microseconds": 1e6 * statistics.median(seconds[since:]) / block,
                    "resident_mib": statistics.median(resident[since:]) / 2**20,
                    "nats": sum(nats[since:]) / (block * (len(nats) - since)),
                }
            )
        if position in keep:
            kept[position] = jax.tree.map(jnp.copy, stream)
    return rows, kept


def time_ratio(model: Titans, ids: np.ndarray, early: Stream, late: Stream, block: int) -> float:
    """Time per token of a late stream over that of an early one: medians of blocks read in turns.

    Args:
      model: what reads.
      ids: tokens, of which both streams read the first blocks, over and over.
      early: a stream, used up.
      late: another, used up.
      block: tokens per call of the device.
    """
    graphdef, params = nnx.split(model)
    options: dict[str, Any] = {"aligned": model.config.alignment > 1, "scored": True}
    streams = [early, late]
    seconds: tuple[list[float], list[float]] = ([], [])
    for turn in range(TURNS):
        start = turn * block % (ids.size // block * block)
        tokens = ids[None, start : start + block]
        # The first of a pair finds the caches as the other left them.
        for i in (0, 1) if turn % 2 else (1, 0):
            began = time.perf_counter()
            streams[i], losses = read_block(
                graphdef, params, streams[i], tokens, None, freeze_memory=False, **options
            )
            np.asarray(losses)
            seconds[i].append(time.perf_counter() - began)
    return statistics.median(seconds[1]) / statistics.median(seconds[0])
