"""From tokens to batches: a grain pipeline that is deterministic and can be saved and resumed at any batch."""

import math
from collections.abc import Sequence
from typing import Any

import grain
import numpy as np
from jaxtyping import Int32

from titans_jax.data.packing import (
    CarriedWindows,
    DocumentWindows,
    StreamWindows,
    Tokens,
    TokensInMemory,
    Window,
    blank_window,
)
from titans_jax.data.prepared import PreparedTokens

# Cutting a batch out of memory takes microseconds, less than handing it between threads would.
_IN_THE_CALLER = grain.ReadOptions(num_threads=0, prefetch_buffer_size=0)
# Batches read from disk are made ahead of the step that takes them.
_AHEAD = grain.ReadOptions(num_threads=4, prefetch_buffer_size=8)

TokenDocuments = Sequence[Int32[np.ndarray, " N"]] | PreparedTokens


def make_pipeline(
    documents: TokenDocuments,
    *,
    sequence_length: int,
    batch_size: int,
    seed: int,
    shuffle: bool,
    repeat: bool,
    process_index: int = 0,
    process_count: int = 1,
    packing: str = "stream",
    alignment: int = 1,
    carry: int = 0,
) -> grain.IterDataset[dict[str, Any]]:
    """Batches of windows over documents of tokens.

    For training: `shuffle=True, repeat=True`; every epoch has an order of its own. For validation: both False; the
    last batch is filled with blank windows, so that every token is a target exactly once and every batch has the
    same shape. `iter(...)` of the result gives batches; its `get_state()` and `set_state()` mark a position between
    two batches, and it is a checkpointable item of Orbax as it is. The position is a number of batches: with the
    same `batch_size * process_count` it is the same place for any number of processes.

    Args:
      documents: int32 arrays, the first token of each context only (`TokenizedText.documents`; documents without a
        target are left out), or `Prepared.documents`, which stay on disk.
      sequence_length: T, tokens in a window.
      batch_size: B, windows in a batch of this process.
      seed: decides the order when shuffling, in [0, 2**32).
      shuffle: whether windows come in random order.
      repeat: whether to go on for ever.
      process_index: which share of the windows to read.
      process_count: number of disjoint shares; together they read the batches of a single process of
        `batch_size * process_count`.
      packing: "stream" (documents end to end, no padding) or "documents" (each starts at a multiple of `alignment`
        with `reset` True).
      alignment: for "documents": the memory's chunk, a divisor of `sequence_length`.
      carry: 0, or the windows over which a row of the batch goes on through the text before it starts elsewhere,
        with `reset` True (`packing.CarriedWindows`); for training on "stream". Row r of a batch is then that of the
        batches before it, for any number of processes whose shares lie one after the other.

    Returns:
      A dataset of {"inputs", "targets": int32 [B, T], "loss_mask", "reset": bool [B, T]}.

    Raises:
      ValueError: an argument is out of its range, or there is less text than one sequence.
    """
    _check(sequence_length, batch_size, seed, process_index, process_count, packing, alignment)
    read_options = _read_options([documents])
    windows = _windows(documents, sequence_length, packing, alignment)
    if carry:
        if not (isinstance(windows, StreamWindows) and shuffle and repeat):
            raise ValueError(
                f'carry is {carry}; it needs packing="stream", shuffle=True and repeat=True'
            )
        walks = CarriedWindows(windows, carry, batch_size * process_count, seed)
        one_after_the_other = _Contiguous(walks, batch_size, process_index, process_count)
        return (
            grain.MapDataset.source(one_after_the_other)
            .batch(batch_size)
            .to_iter_dataset(read_options)
        )
    dataset = grain.MapDataset.source(windows)
    if shuffle:
        dataset = dataset.seed(seed).shuffle()
    if repeat:
        dataset = dataset.repeat()
    else:
        dataset = grain.MapDataset.source(
            _FilledUp(dataset, batch_size * process_count, blank_window(sequence_length))
        )
    return _batches(dataset, batch_size, process_index, process_count, read_options)


def make_mixture(
    sources: Sequence[tuple[TokenDocuments, float]],
    *,
    sequence_length: int,
    batch_size: int,
    seed: int,
    process_index: int = 0,
    process_count: int = 1,
    packing: str = "stream",
    alignment: int = 1,
) -> grain.IterDataset[dict[str, Any]]:
    """Endless, shuffled batches of windows from several sources, in fixed proportions.

    Windows of the sources alternate as evenly as their weights allow (to 1 % of the smallest weight); each source
    begins its next epoch when it has been read, however long the others are. All else is as in `make_pipeline`.

    Args:
      sources: documents, and their weight: the share of all windows that come from them, up to a common factor.
      sequence_length: see `make_pipeline`.
      batch_size: see `make_pipeline`.
      seed: see `make_pipeline`.
      process_index: see `make_pipeline`.
      process_count: see `make_pipeline`.
      packing: see `make_pipeline`.
      alignment: see `make_pipeline`.

    Raises:
      ValueError: an argument is out of its range, or a source holds less text than one sequence.
    """
    _check(sequence_length, batch_size, seed, process_index, process_count, packing, alignment)
    if not sources:
        raise ValueError("sources is empty; a mixture needs at least one")
    for number, (_, weight) in enumerate(sources):
        if not (math.isfinite(weight) and weight > 0):
            raise ValueError(f"sources[{number}] has the weight {weight}; it must be positive")
    endless = [
        grain.MapDataset.source(_windows(documents, sequence_length, packing, alignment))
        .seed((seed + number) % 2**32)
        .shuffle()
        .repeat()
        for number, (documents, _) in enumerate(sources)
    ]
    mixed = grain.MapDataset.mix(endless, [weight for _, weight in sources])
    read_options = _read_options([documents for documents, _ in sources])
    return _batches(mixed, batch_size, process_index, process_count, read_options)


def _check(
    sequence_length: int,
    batch_size: int,
    seed: int,
    process_index: int,
    process_count: int,
    packing: str,
    alignment: int,
) -> None:
    for name, value in (
        ("sequence_length", sequence_length),
        ("batch_size", batch_size),
        ("process_count", process_count),
        ("alignment", alignment),
    ):
        if not isinstance(value, int | np.integer) or value < 1:
            raise ValueError(f"{name} is {value!r}; it must be a positive integer")
    if not 0 <= process_index < process_count:
        raise ValueError(
            f"process_index is {process_index}; with process_count={process_count} it must lie in "
            f"[0, {process_count})"
        )
    if not 0 <= seed < 2**32:
        raise ValueError(f"seed is {seed}; it must lie in [0, 2**32)")
    if packing not in ("stream", "documents"):
        raise ValueError(f'packing is {packing!r}; it must be "stream" or "documents"')
    if packing == "documents" and sequence_length % alignment:
        raise ValueError(
            f"alignment is {alignment}; it must divide sequence_length={sequence_length}, so that documents can "
            "start where a chunk starts"
        )


def _windows(
    documents: TokenDocuments, sequence_length: int, packing: str, alignment: int
) -> StreamWindows | DocumentWindows:
    if isinstance(documents, PreparedTokens):
        available = documents.target_tokens
    else:
        documents = [document for document in documents if len(document) > 1]
        available = sum(len(document) - 1 for document in documents)
    if available < sequence_length:
        raise ValueError(
            f"the text holds {available} tokens, fewer than one sequence of sequence_length={sequence_length}; give "
            f"more text (for validation text: a larger valid_fraction) or a sequence_length of at most {available}"
        )
    tokens: Tokens = (
        documents if isinstance(documents, PreparedTokens) else TokensInMemory(documents)
    )
    if packing == "stream":
        return StreamWindows(tokens, sequence_length)
    return DocumentWindows(tokens, sequence_length, alignment)


def _read_options(sources: Sequence[TokenDocuments]) -> grain.ReadOptions:
    on_disk = any(isinstance(documents, PreparedTokens) for documents in sources)
    return _AHEAD if on_disk else _IN_THE_CALLER


def _batches(
    windows: grain.MapDataset,
    batch_size: int,
    process_index: int,
    process_count: int,
    read_options: grain.ReadOptions,
) -> grain.IterDataset[dict[str, Any]]:
    share = windows[process_index::process_count]
    # Batched before it becomes an iterator, whose position then counts batches. There is no remainder to drop: a share
    # is endless, or filled up.
    return share.batch(batch_size, drop_remainder=True).to_iter_dataset(read_options)


class _Contiguous:
    """One process's rows of every batch, which are adjoining rows of the whole batch."""

    def __init__(self, windows: CarriedWindows, batch_size: int, index: int, count: int):
        self._windows, self._rows = windows, batch_size
        self._first, self._all = index * batch_size, count * batch_size

    def __len__(self) -> int:
        return len(self._windows) // self._all * self._rows

    def __getitem__(self, index: int) -> Window:
        step, row = divmod(index, self._rows)
        return self._windows[step * self._all + self._first + row]


class _FilledUp:
    """A finite sequence of windows, followed by blank ones up to a multiple of `multiple`."""

    def __init__(self, windows: Sequence[Window], multiple: int, blank: Window):
        self._windows = windows
        self._length = -(-len(windows) // multiple) * multiple
        self._blank = blank

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, index: int) -> Window:
        return self._windows[index] if index < len(self._windows) else self._blank
