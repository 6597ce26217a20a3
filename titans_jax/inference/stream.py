"""Streams: what a model keeps of the tokens read so far, and how more tokens are read in fixed memory.

A prompt of any length is cut into blocks of a few fixed sizes, so that nothing compiles again when it is longer: small
ones up to the next chunk's (MAC: segment's) start, then blocks of ``block`` tokens, of a chunk, and ever fewer down to
single tokens. The host holds one block at a time; the device holds the stream, which is updated in place.

Sequences of a batch may have different lengths. Each takes its own blocks; where one has no block of the running size
left, it keeps its stream while the others go on. So every sequence is read exactly as it would be alone.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Bool, Float, Int

from titans_jax.config import TitansConfig
from titans_jax.fields import optional, positive_int, require
from titans_jax.memory.state import MemoryState
from titans_jax.models.language_model import Titans
from titans_jax.models.mac import MACState
from titans_jax.models.token_ids import require_in_vocabulary
from titans_jax.registry import registered
from titans_jax.typing import Array

#: Tokens of a block by default, before rounding up to whole chunks: enough to fill the matrix units, little to hold.
BLOCK = 512
#: Each size of block is about this many times the next, so that a remainder takes few calls and few compilations.
LADDER = 8

#: One sequence: token ids, or pieces of them from an iterator.
Tokens = Any


@registered
class Stream(NamedTuple):
    """What is kept of ``B`` sequences.

    Functions that take a stream use it up, for they write into its memory: go on with what they return. Where one
    stream is the start of several, as of several answers to one book, give each of them a `copy`.

    Attributes:
        state: the model's state; its leaves start with the axes [L B].
        logits: prediction of the next token; zeros before the first.
        seen: which tokens were read or generated, for the repetition penalty.
        length: tokens so far.
    """

    state: Any
    logits: Float[Array, "B V"]
    seen: Bool[Array, "B V"]
    length: Int[Array, "B"]

    def copy(self) -> Stream:
        """A stream of its own with the same contents, at the cost of its memory.

        Raises:
            ValueError: the stream is used up.
        """
        require_unused(self)
        return jax.tree.map(jnp.copy, self)


def require_unused(stream: Stream) -> None:
    """Raises a ValueError if a stream was given to a function that used it up."""
    used = (isinstance(leaf, jax.Array) and leaf.is_deleted() for leaf in jax.tree.leaves(stream))
    if any(used):
        raise ValueError(
            "stream is used up by the call that it was given to: go on with the stream which that returned, or "
            "give it stream.copy() to use this one again"
        )


def start_stream(model: Titans, batch_size: int = 1, max_length: int | None = None) -> Stream:
    """The stream before the first token.

    Args:
        model: the language model.
        batch_size: B.
        max_length: longest stream; only full attention needs it, whose state grows with it.

    Raises:
        ValueError: as `Titans.init_state`.
    """
    batch_size = positive_int("batch_size", batch_size)
    max_length = optional(positive_int)("max_length", max_length)
    graphdef, params = nnx.split(model)
    return _start(graphdef, params, batch_size, max_length)


@functools.partial(jax.jit, static_argnums=(0, 2, 3))
def _start(graphdef: Any, params: Any, batch_size: int, max_length: int | None) -> Stream:
    model = nnx.merge(graphdef, params)
    state = model.init_state(batch_size, max_length)
    tokens = jax.ShapeDtypeStruct((batch_size, 1), jnp.int32)
    logits = jax.eval_shape(model, tokens, state)[0]
    shape = (batch_size, logits.shape[-1])
    return Stream(
        state,
        jnp.zeros(shape, logits.dtype),
        jnp.zeros(shape, jnp.bool_),
        jnp.zeros((batch_size,), jnp.int32),
    )


def prefill(
    model: Titans,
    tokens: Tokens,
    stream: Stream | None = None,
    *,
    freeze_memory: bool = False,
    block: int | None = None,
    max_length: int | None = None,
) -> Stream:
    """Reads tokens into a stream.

    Args:
        model: the language model.
        tokens: one sequence of ids; an iterator of ids or of pieces of them, of any length; or a list of
            such sequences, one per sequence of the batch, which may differ in length.
        stream: after the tokens before these, used up; None starts one.
        freeze_memory: read without learning (`Titans.__call__`).
        block: tokens read at once; None: about `BLOCK`.
        max_length: of a stream started here; only full attention needs it.

    Returns:
        The stream after these tokens.

    Raises:
        ValueError: naming the argument that does not fit.
    """
    reader = _Reader(model, tokens, stream, freeze_memory, block, max_length, scored=False)
    for _ in reader.blocks():
        pass
    return reader.stream


def score(
    model: Titans,
    tokens: Tokens,
    stream: Stream | None = None,
    *,
    freeze_memory: bool = False,
    block: int | None = None,
    max_length: int | None = None,
) -> tuple[list[Float[np.ndarray, "T"]], Stream]:
    """`prefill` that also returns each sequence's loss in nats per token.

    A token's loss is that of the prediction made before it; the first of a new stream is predicted by nothing and
    costs log(V).
    """
    reader = _Reader(model, tokens, stream, freeze_memory, block, max_length, scored=True)
    losses: list[list[np.ndarray]] = [[] for _ in reader.sources]
    for active, values in reader.blocks():
        for sequence in np.flatnonzero(active):
            losses[sequence].append(np.asarray(values[sequence]))
    empty = np.zeros(0, reader.stream.logits.dtype)
    return [np.concatenate([empty, *parts]) for parts in losses], reader.stream


@functools.partial(jax.jit, static_argnames="graphdef", donate_argnames="stream")
def _reset_memory(graphdef: Any, params: Any, stream: Stream) -> Stream:
    fresh = nnx.merge(graphdef, params).init_state(stream.length.shape[0], 1)

    def reset(new: Any, old: Any) -> Any:
        return new._replace(position=old.position) if isinstance(new, MemoryState) else old

    state = jax.tree.map(
        reset, fresh, stream.state, is_leaf=lambda node: isinstance(node, MemoryState)
    )
    if isinstance(state, MACState):
        state = state._replace(segment_weights=fresh.segment_weights)
    return stream._replace(state=state)


def reset_memory(model: Titans, stream: Stream) -> Stream:
    """Forgets what the memory learned, and nothing else: attention and convolutions keep their last tokens.

    Args:
        model: the language model.
        stream: at a chunk's (MAC: a segment's) start, where a reset has a meaning; used up.

    Raises:
        ValueError: the model has no memory, or a sequence is not at such a place.
    """
    require_unused(stream)
    require(model.config.has_memory, "variant", model.config.variant, "one with a memory")
    unit, lengths = model.config.alignment, np.asarray(stream.length)
    if (lengths % unit).any():
        raise ValueError(
            f"stream must be at a multiple of {unit} tokens to reset its memory, got {lengths.tolist()}"
        )
    graphdef, params = nnx.split(model)
    return _reset_memory(graphdef, params, beside(params, stream))


def block_sizes(config: TitansConfig, block: int | None = None) -> list[int]:
    """Sizes of the blocks in which tokens are read, from the largest to 1."""
    unit = config.alignment
    if block is None:
        block = -(-BLOCK // unit) * unit
    block = positive_int("block", block)
    sizes, size = {block, 1}, min(unit, block) if unit > 1 else block // LADDER
    while size > 1:
        sizes.add(size)
        size //= LADDER
    return sorted(sizes, reverse=True)


def beside(params: Any, stream: Stream) -> Stream:
    """The stream on the parameters' device: what comes from a file is tied to none, and would compile again.

    Raises:
        ValueError: the stream is used up.
    """
    require_unused(stream)
    leaf = jax.tree.leaves(params)[0]
    return jax.device_put(stream, leaf.sharding) if leaf.committed else stream


def select(active: Bool[Array, "B"], new: Stream, old: Stream) -> Stream:
    """The new stream of the sequences that are active, the old one of the others."""

    def along(axis):
        def one(new, old):
            shape = [1] * new.ndim
            shape[axis] = -1
            return jnp.where(active.reshape(shape), new, old)

        return one

    state = jax.tree.map(along(1), new.state, old.state)
    return Stream(state, *jax.tree.map(along(0), tuple(new[1:]), tuple(old[1:])))


def advance(
    model: Titans, stream: Stream, tokens: Int[Array, "B T"], *, freeze_memory: bool, aligned: bool
) -> tuple[Float[Array, "B T V"], Stream]:
    """The logits after every token, and the stream after the last."""
    logits, state = model(tokens, stream.state, freeze_memory=freeze_memory, aligned=aligned)
    rows = jnp.arange(tokens.shape[0], dtype=jnp.int32)[:, None]
    seen = stream.seen.at[rows, tokens].set(True)
    return logits, Stream(state, logits[:, -1], seen, stream.length + tokens.shape[1])


@functools.partial(
    jax.jit,
    static_argnames=("graphdef", "freeze_memory", "aligned", "scored"),
    donate_argnames="stream",
)
def read_block(
    graphdef: Any,
    params: Any,
    stream: Stream,
    tokens: Int[Array, "B T"],
    active: Bool[Array, "B"] | None,
    *,
    freeze_memory: bool,
    aligned: bool,
    scored: bool,
) -> tuple[Stream, Float[Array, "B T"] | None]:
    """One compiled block: the stream after it and, if scored, the loss of each of its tokens.

    Args:
        graphdef: of the model, from `nnx.split`.
        params: of the model, from `nnx.split`.
        stream: donated.
        tokens: one block of each sequence.
        active: sequences whose stream moves on; None: all.
        freeze_memory: read without learning.
        aligned: every active sequence is at a multiple of `TitansConfig.alignment`.
        scored: whether losses are wanted.
    """
    model = nnx.merge(graphdef, params)
    logits, after = advance(model, stream, tokens, freeze_memory=freeze_memory, aligned=aligned)
    losses = None
    if scored:
        before = jnp.concatenate([stream.logits[:, None], logits[:, :-1]], axis=1)
        chosen = jnp.take_along_axis(before, tokens[..., None], axis=-1)[..., 0]
        losses = jax.nn.logsumexp(before, axis=-1) - chosen
    return (after if active is None else select(active, after, stream)), losses


class _Reader:
    """Reads sequences block by block into `stream`."""

    def __init__(self, model, tokens, stream, freeze_memory, block, max_length, *, scored):
        self.config: TitansConfig = model.config
        self.sources = [_Source(s, self.config.vocab_size) for s in _sequences(tokens)]
        self.sizes = block_sizes(self.config, block)
        self.options = {"freeze_memory": freeze_memory, "scored": scored}
        if stream is None:
            stream = start_stream(model, len(self.sources), max_length)
        elif max_length is not None:
            raise ValueError(
                f"max_length must be None where a stream is given, got {max_length!r}: a stream's "
                "length is set when it starts"
            )
        require_unused(stream)
        if stream.length.shape != (len(self.sources),):
            raise ValueError(
                f"tokens must hold one sequence for each of the stream's {stream.length.size}, "
                f"got {len(self.sources)}"
            )
        self.graphdef, self.params = nnx.split(model)
        self.stream = beside(self.params, stream)
        self.length = np.array(stream.length, np.int64)

    def blocks(self) -> Iterator[tuple[np.ndarray, Any]]:
        """Per block which sequences it moved on, and the losses."""
        unit = self.config.alignment
        # Up to its chunk's start first, in small blocks: from there on whole chunks are read, by a shorter way.
        left = -self.length % unit
        for size in (size for size in self.sizes if size < unit):
            while (active := self._active(size) & (left >= size)).any():
                left[active] -= size
                yield self._read(active, size)
        for size in self.sizes:
            while (active := self._active(size)).any():
                yield self._read(active, size)

    def _active(self, size: int) -> Bool[np.ndarray, "B"]:
        return np.array([source.holds(size) for source in self.sources])

    def _read(self, active: Bool[np.ndarray, "B"], size: int) -> tuple[np.ndarray, Any]:
        unit = self.config.alignment
        tokens = np.zeros((len(self.sources), size), np.int32)
        for row in np.flatnonzero(active):
            tokens[row] = self.sources[row].take(size)
        # Only where it can skip a part of a chunk is a promise worth a compilation.
        aligned = size >= unit > 1 and not (self.length[active] % unit).any()
        self.stream, losses = read_block(
            self.graphdef,
            self.params,
            self.stream,
            tokens,
            None if active.all() else active,
            aligned=aligned,
            **self.options,
        )
        self.length[active] += size
        return active, losses


class _Source:
    """One sequence's tokens, pulled as they are needed."""

    def __init__(self, tokens: Any, vocab_size: int):
        whole = isinstance(tokens, Sequence | np.ndarray | jax.Array)
        self._pieces: Iterator[Any] = iter([tokens] if whole else tokens)
        self._vocab_size = vocab_size
        self._buffer, self._start = np.zeros(0, np.int32), 0

    def holds(self, size: int) -> bool:
        """Whether at least `size` tokens are left."""
        while self._buffer.size - self._start < size:
            parts, missing = [self._buffer[self._start :]], size
            # Single ids are joined a block at a time, not one by one.
            for piece in self._pieces:
                parts.append(self._checked(piece))
                missing -= parts[-1].size
                if missing <= 0:
                    break
            else:
                if len(parts) == 1:
                    return False
            self._buffer, self._start = np.concatenate(parts) if parts[0].size else _join(parts), 0
        return True

    def take(self, size: int) -> np.ndarray:
        """The next `size` tokens."""
        block = self._buffer[self._start : self._start + size]
        self._start += size
        require_in_vocabulary("tokens", block, self._vocab_size)
        return block

    @staticmethod
    def _checked(piece: Any) -> np.ndarray:
        array = np.atleast_1d(np.asarray(piece))
        if array.size == 0:
            return np.zeros(0, np.int32)
        if array.ndim != 1 or not np.issubdtype(array.dtype, np.integer):
            raise ValueError(
                f"tokens must be integers, one axis per sequence, got {array.dtype} of shape {array.shape}"
            )
        return array


def _join(parts: list[np.ndarray]) -> np.ndarray:
    """Pieces after an empty buffer; one alone is not copied, so that a mapped file stays on disk."""
    parts = [part for part in parts if part.size]
    return parts[0] if len(parts) == 1 else np.concatenate([np.zeros(0, np.int32), *parts])


def _is_scalar(entry: Any) -> bool:
    return isinstance(entry, int | float | np.generic) or (
        isinstance(entry, np.ndarray | jax.Array) and entry.ndim == 0
    )


def _sequences(tokens: Tokens) -> Iterable[Any]:
    """One entry per sequence of the batch."""
    if isinstance(tokens, np.ndarray | jax.Array):
        if tokens.ndim < 2:
            return [tokens]
        require(len(tokens) > 0, "tokens", tokens.shape, "at least one sequence, of shape [B, T]")
        return list(np.asarray(tokens))
    if isinstance(tokens, Sequence) and not isinstance(tokens, bytes | str):
        nested = [not _is_scalar(entry) for entry in tokens]
        if any(nested) and not all(nested):
            raise ValueError("tokens must be ids or sequences of ids, got both in one list")
        return list(tokens) if any(nested) else [tokens]
    if isinstance(tokens, str | bytes):
        raise ValueError(f"tokens must be ids, got {type(tokens).__name__}: encode it first")
    return [tokens]
