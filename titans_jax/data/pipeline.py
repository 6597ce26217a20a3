"""From tokens to batches: a grain pipeline that is deterministic and can be saved and resumed at any batch."""

from collections.abc import Sequence
from typing import Any

import grain
import numpy as np
from jaxtyping import Int32

from titans_jax.data.packing import DocumentWindows, StreamWindows, Window, blank_window

# Cutting a window out of memory takes microseconds, less than handing it between threads would.
_IN_THE_CALLER = grain.ReadOptions(num_threads=0, prefetch_buffer_size=0)


def make_pipeline(
    token_documents: Sequence[Int32[np.ndarray, " N"]],
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
) -> grain.IterDataset[dict[str, Any]]:
    """Batches of windows over documents of tokens.

    For training: `shuffle=True, repeat=True`; every epoch has an order of its own. For validation: both False; the
    last batch is filled with blank windows, so that every token is a target exactly once and every batch has the
    same shape. `iter(...)` of the result gives batches; its `get_state()` and `set_state()` mark a position between
    two batches, and it is a checkpointable item of Orbax as it is.

    Args:
      token_documents: int32 arrays; the first token of each is context only (`TokenizedText.documents`). Documents
        without a target are left out.
      sequence_length: T, tokens in a window.
      batch_size: B, windows in a batch of this process.
      seed: decides the order when shuffling, in [0, 2**32).
      shuffle: whether windows come in random order.
      repeat: whether to go on for ever.
      process_index: which share of the windows to read.
      process_count: number of disjoint shares.
      packing: "stream" (documents end to end, no padding) or "documents" (each starts at a multiple of `alignment`
        with `reset` True).
      alignment: for "documents": the memory's chunk, a divisor of `sequence_length`.

    Returns:
      A dataset of {"inputs", "targets": int32 [B, T], "loss_mask", "reset": bool [B, T]}.

    Raises:
      ValueError: an argument is out of its range, or there is less text than one sequence.
    """
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
    documents = [document for document in token_documents if len(document) > 1]
    available = sum(len(document) - 1 for document in documents)
    if available < sequence_length:
        raise ValueError(
            f"the text holds {available} tokens, fewer than one sequence of sequence_length={sequence_length}; give "
            f"more text (for validation text: a larger valid_fraction) or a sequence_length of at most {available}"
        )

    windows: StreamWindows | DocumentWindows
    if packing == "stream":
        windows = StreamWindows(documents, sequence_length)
    elif packing == "documents":
        if sequence_length % alignment:
            raise ValueError(
                f"alignment is {alignment}; it must divide sequence_length={sequence_length}, so that documents can "
                "start where a chunk starts"
            )
        windows = DocumentWindows(documents, sequence_length, alignment)
    else:
        raise ValueError(f'packing is {packing!r}; it must be "stream" or "documents"')

    dataset = grain.MapDataset.source(windows).seed(seed)
    if shuffle:
        dataset = dataset.shuffle()
    if repeat:
        dataset = dataset.repeat()
    else:
        dataset = grain.MapDataset.source(
            _FilledUp(dataset, batch_size * process_count, blank_window(sequence_length))
        )
    share = dataset[process_index::process_count]
    return share.to_iter_dataset(_IN_THE_CALLER).batch(batch_size)


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
