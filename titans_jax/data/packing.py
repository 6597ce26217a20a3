"""Documents of tokens to windows of one length: the records that a batch is made of.

A document is an int32 array whose first token is context only, such as `Tokenizer.start_token`: it is an input and
never a target. Every other token of every document is a target in exactly one window.

* `StreamWindows` lays all documents end to end and cuts: no padding, and a window may begin inside a document.
* `DocumentWindows` starts every document at a chunk boundary, where the model resets its memory and attention.

Both are random-access sources for grain; a window is built when it is asked for.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple, TypedDict

import numpy as np
from jaxtyping import Bool, Int32


class Window(TypedDict):
    """One row of a batch; padding is id 0 with `loss_mask` False, and comes after the tokens that matter."""

    inputs: Int32[np.ndarray, " T"]
    targets: Int32[np.ndarray, " T"]  # targets[t] follows inputs[t]
    loss_mask: Bool[np.ndarray, " T"]  # False where targets[t] does not count
    reset: Bool[np.ndarray, " T"]  # True where inputs[t] starts a document of its own


def blank_window(sequence_length: int) -> Window:
    """A window without any target, to fill up a last batch."""
    return Window(
        inputs=np.zeros(sequence_length, np.int32),
        targets=np.zeros(sequence_length, np.int32),
        loss_mask=np.zeros(sequence_length, np.bool_),
        reset=np.zeros(sequence_length, np.bool_),
    )


class StreamWindows:
    """All documents end to end, cut into windows whose targets adjoin; only the last window may be padded.

    `reset` is False throughout: text flows from one document into the next, past the next one's start token, which is
    no target. A window's first input is the last target of the window before it.
    """

    def __init__(self, documents: Sequence[Int32[np.ndarray, " N"]], sequence_length: int):
        """Lays out the documents; both arguments as `make_pipeline` has checked them."""
        self._stream = np.concatenate(documents)
        self._counts = np.ones(len(self._stream), np.bool_)
        starts = np.cumsum([0] + [len(document) for document in documents[:-1]])
        self._counts[starts] = False
        self._length = sequence_length

    def __len__(self) -> int:
        return -(-(len(self._stream) - 1) // self._length)

    def __getitem__(self, index: int) -> Window:
        first = index * self._length
        inputs = self._stream[first : first + self._length]
        targets = self._stream[first + 1 : first + 1 + self._length]
        window = blank_window(self._length)
        window["inputs"][: len(inputs)] = inputs
        window["targets"][: len(targets)] = targets
        window["loss_mask"][: len(targets)] = self._counts[first + 1 : first + 1 + len(targets)]
        return window


class _Piece(NamedTuple):
    """At most a window's worth of one document: its targets are document[start + 1 : start + 1 + length]."""

    document: int
    start: int
    length: int


class DocumentWindows:
    """Documents side by side, each at a multiple of `alignment`, padded up to the next one.

    A document longer than a window is cut into pieces that each count as a document of their own: the model forgets
    between them. Pieces fill windows best-fit decreasing: the longest first, each into the fullest window it fits in.
    """

    def __init__(
        self,
        documents: Sequence[Int32[np.ndarray, " N"]],
        sequence_length: int,
        alignment: int,
    ):
        """Plans the windows; all arguments as `make_pipeline` has checked them."""
        self._documents = documents
        self._length = sequence_length
        self._alignment = alignment
        pieces = [
            _Piece(document, start, min(sequence_length, len(tokens) - 1 - start))
            for document, tokens in enumerate(documents)
            for start in range(0, len(tokens) - 1, sequence_length)
        ]
        self._windows = _fill(pieces, sequence_length // alignment, self._slots)

    def __len__(self) -> int:
        return len(self._windows)

    def __getitem__(self, index: int) -> Window:
        window = blank_window(self._length)
        at = 0
        for piece in self._windows[index]:
            tokens = self._documents[piece.document][piece.start : piece.start + piece.length + 1]
            here = slice(at, at + piece.length)
            window["inputs"][here] = tokens[:-1]
            window["targets"][here] = tokens[1:]
            window["loss_mask"][here] = True
            window["reset"][at] = True
            at += self._slots(piece) * self._alignment
        return window

    def _slots(self, piece: _Piece) -> int:
        """Number of aligned chunks that a piece occupies."""
        return -(-piece.length // self._alignment)


def _fill(
    pieces: list[_Piece], capacity: int, slots: Callable[[_Piece], int]
) -> list[list[_Piece]]:
    """Best-fit decreasing: lists of pieces whose slots add up to at most `capacity`."""
    windows: list[list[_Piece]] = []
    with_room: list[list[int]] = [[] for _ in range(capacity + 1)]  # window numbers by free slots
    for piece in sorted(pieces, key=slots, reverse=True):
        needed = slots(piece)
        free = next((room for room in range(needed, capacity + 1) if with_room[room]), None)
        if free is None:
            free = capacity
            with_room[capacity].append(len(windows))
            windows.append([])
        number = with_room[free].pop()
        windows[number].append(piece)
        with_room[free - needed].append(number)
    return windows
