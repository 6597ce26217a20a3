"""Documents of tokens to windows of one length: the records that a batch is made of.

A document is an int32 array whose first token is context only, such as `Tokenizer.start_token`: it is an input and
never a target. Every other token of every document is a target in exactly one window.

* `StreamWindows` lays all documents end to end and cuts: no padding, and a window may begin inside a document.
* `CarriedWindows` are those windows in the order in which rows of a batch walk through the text.
* `DocumentWindows` starts every document at a chunk boundary, where the model resets its memory and attention.

All are random-access sources for grain; a window is read when it is asked for, from memory or from disk (`Tokens`),
and a plan takes some bytes a document, not a token.
"""

import sys
from collections.abc import Iterator, Sequence
from typing import NamedTuple, Protocol, TypedDict

import grain
import numpy as np
from jaxtyping import Bool, Int32, Int64


class Window(TypedDict):
    """One row of a batch; padding is id 0 with `loss_mask` False, and comes after the tokens that matter."""

    inputs: Int32[np.ndarray, " T"]
    targets: Int32[np.ndarray, " T"]  # targets[t] follows inputs[t]
    loss_mask: Bool[np.ndarray, " T"]  # False where targets[t] does not count
    reset: Bool[np.ndarray, " T"]  # True where inputs[t] starts a document of its own


class Tokens(Protocol):
    """Documents end to end, wherever they lie."""

    @property
    def starts(self) -> Int64[np.ndarray, " D+1"]:
        """Where each document starts, and where the last one ends."""
        ...

    def read(self, start: int, stop: int) -> Int32[np.ndarray, " N"]:
        """Tokens `start` to `stop`, across documents."""
        ...


class TokensInMemory:
    """`Tokens` of a list of arrays, at least one."""

    def __init__(self, documents: Sequence[Int32[np.ndarray, " N"]]):
        self._stream = np.concatenate(documents)
        self.starts = np.cumsum([0] + [len(document) for document in documents], dtype=np.int64)

    def read(self, start: int, stop: int) -> Int32[np.ndarray, " N"]:
        """Tokens `start` to `stop`, across documents."""
        return self._stream[start:stop]


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

    def __init__(self, tokens: Tokens, sequence_length: int):
        """Lays out the documents; both arguments as `make_pipeline` has checked them."""
        self._tokens = tokens
        self._total = int(tokens.starts[-1])
        self._length = sequence_length

    def __len__(self) -> int:
        return -(-(self._total - 1) // self._length)

    @property
    def full(self) -> int:
        """Windows without padding."""
        return (self._total - 1) // self._length

    def __getitem__(self, index: int) -> Window:
        first = index * self._length
        stop = min(first + self._length + 1, self._total)
        piece = self._tokens.read(first, stop)
        inputs, targets = piece[: self._length], piece[1:]
        window = blank_window(self._length)
        window["inputs"][: len(inputs)] = inputs
        window["targets"][: len(targets)] = targets
        window["loss_mask"][: len(targets)] = True
        starts = self._tokens.starts
        among_targets = slice(*np.searchsorted(starts, [first + 1, stop]))
        window["loss_mask"][starts[among_targets] - (first + 1)] = False
        return window


class CarriedWindows:
    """The windows of a batch whose rows walk through the text, endless: row r of step s is record s * rows + r.

    The text's full windows are cut into walks of `carry` adjoining ones, which come in random order, anew in every
    epoch. A row reads one walk after another, and `reset` is True where a walk starts. The rows' walks start at
    different steps, so that every step has memories of all ages. What is left of the text after the last whole walk
    is not read.
    """

    def __init__(self, windows: StreamWindows, carry: int, rows: int, seed: int):
        """Plans the walks.

        Args:
          windows: of the whole text.
          carry: windows of a walk.
          rows: of the batch, over all processes.
          seed: of the walks' order.

        Raises:
          ValueError: the text has not one walk.
        """
        walks = windows.full // carry
        if not walks:
            raise ValueError(
                f"carry is {carry}; the text has {windows.full} full windows, so it must be at most that"
            )
        self._windows, self._carry, self._rows = windows, carry, rows
        self._order = grain.MapDataset.range(walks).seed(seed).shuffle().repeat()

    def __len__(self) -> int:
        return sys.maxsize

    def __getitem__(self, index: int) -> Window:
        step, row = divmod(index, self._rows)
        number, place = divmod(step + row * self._carry // self._rows, self._carry)
        walk = self._order[number * self._rows + row]
        window = self._windows[walk * self._carry + place]
        window["reset"][0] = place == 0
        return window


class DocumentWindows:
    """Documents side by side, each at a multiple of `alignment`, padded up to the next one.

    A document longer than a window is cut into pieces that each count as a document of their own: the model forgets
    between them. A piece as long as a window is one; the rest, at most one per document, fill windows best-fit
    decreasing: the longest first, each into the fullest window it fits in.
    """

    def __init__(self, tokens: Tokens, sequence_length: int, alignment: int):
        """Plans the windows; all arguments as `make_pipeline` has checked them."""
        self._tokens = tokens
        self._length = sequence_length
        self._alignment = alignment
        targets = np.diff(tokens.starts) - 1
        # Windows 0 to whole[-1] are documents' full pieces: those of document d from whole[d] on.
        self._whole = np.concatenate([[0], np.cumsum(targets // sequence_length)])
        slots = -(-(targets % sequence_length) // alignment)
        self._by_slots = np.argsort(slots, kind="stable")
        counts = np.bincount(slots, minlength=sequence_length // alignment + 1)
        self._first = np.cumsum(counts) - counts  # where a number of slots begins in by_slots
        self._groups = _fill(counts, sequence_length // alignment)
        self._ends = self._whole[-1] + np.cumsum(
            [group.windows for group in self._groups], dtype=int
        )

    def __len__(self) -> int:
        return int(self._ends[-1] if len(self._ends) else self._whole[-1])

    def __getitem__(self, index: int) -> Window:
        window = blank_window(self._length)
        at = 0
        for start, length in self._pieces(index):
            tokens = self._tokens.read(start, start + length + 1)
            here = slice(at, at + length)
            window["inputs"][here] = tokens[:-1]
            window["targets"][here] = tokens[1:]
            window["loss_mask"][here] = True
            window["reset"][at] = True
            at += -(-length // self._alignment) * self._alignment
        return window

    def _pieces(self, index: int) -> Iterator[tuple[int, int]]:
        """Where in the stream the pieces of a window start, and their numbers of targets."""
        starts = self._tokens.starts
        if index < self._whole[-1]:
            document = int(np.searchsorted(self._whole, index, side="right")) - 1
            skipped = index - int(self._whole[document])
            yield int(starts[document]) + skipped * self._length, self._length
            return
        number = int(np.searchsorted(self._ends, index, side="right"))
        group = self._groups[number]
        window = index - (int(self._ends[number]) - group.windows)
        for slots, each, first in group.items:
            at = int(self._first[slots]) + first + window * each
            for document in self._by_slots[at : at + each]:
                start, stop = int(starts[document]), int(starts[document + 1])
                length = (stop - start - 1) % self._length
                yield stop - 1 - length, length


class _Item(NamedTuple):
    """Window w of a group holds `each` pieces of `slots` slots: numbers first + w * each and on among those."""

    slots: int
    each: int
    first: int


class _Group(NamedTuple):
    """Windows that are filled alike."""

    windows: int
    items: tuple[_Item, ...]

    def part(self, start: int, windows: int) -> "_Group":
        """Some of the windows."""
        items = (item._replace(first=item.first + start * item.each) for item in self.items)
        return _Group(windows, tuple(items))


def _fill(counts: Int64[np.ndarray, " S+1"], capacity: int) -> list[_Group]:
    """Best-fit decreasing of `counts[s]` pieces of s slots each, into windows of `capacity` slots.

    Pieces of equal size are interchangeable, so that whole groups of windows are filled at once: the work depends on
    the sizes that occur, not on the number of pieces.
    """
    with_room: list[list[_Group]] = [[] for _ in range(capacity + 1)]
    for slots in range(capacity, 0, -1):
        left = int(counts[slots])
        for room in range(slots, capacity + 1):
            if not left:
                break
            groups = with_room[room]
            if room == capacity:
                groups = [_Group(left, ())]  # as many new windows as it takes
            with_room[room] = []
            most = room // slots
            for group in groups:
                first = int(counts[slots]) - left
                windows = min(group.windows, left // most)
                # One more window takes the last few, fewer than it has room for.
                rest = left - windows * most if windows < group.windows else 0
                start = 0
                for number, each in ((windows, most), (min(rest, 1), rest)):
                    if number:
                        part = group.part(start, number)
                        item = _Item(slots, each, first)
                        with_room[room - each * slots].append(_Group(number, (*part.items, item)))
                        start, first = start + number, first + number * each
                        left -= number * each
                if room < capacity and start < group.windows:
                    with_room[room].append(group.part(start, group.windows - start))
    return [group for groups in with_room for group in groups]
