"""Generation in one compiled loop over a donated stream: its cost per token is the same wherever it stands.

The loop feeds every token it chooses, so the stream that comes back is after the last of them and can be read into or
generated from again. Compiled in are the buffer's size, a power of two, and which filters run; the number of tokens,
the temperature and all other numbers of a `Sampling` are arguments.

Draw number n of a sequence depends on its seed and n alone, not on the batch or on how many tokens a call makes.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Generator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Int

from titans_jax.fields import positive_int, random_seed, require
from titans_jax.inference.sampling import Filters, Numbers, Sampling, choose, divide
from titans_jax.inference.stream import Stream, beside, require_unused, select
from titans_jax.layers.cached_attention import decoding_state, stream_state
from titans_jax.models.language_model import Titans
from titans_jax.typing import Array, Flags

#: In place of tokens after a sequence's end.
NO_TOKEN = -1
#: Tokens that come one by one are made by calls of about so many seconds, and of at most so many tokens: a call costs
#: about a millisecond beside its tokens.
BURST_SECONDS, LONGEST_BURST = 0.05, 64
#: Compile time grows with every layer that is not in a loop.
UNROLLED_LAYERS = 8


class Generated(NamedTuple):
    """What was generated.

    Attributes:
        tokens: a stop token included; `NO_TOKEN` after the end.
        lengths: tokens of each sequence.
        stream: after them.
    """

    tokens: Int[np.ndarray, "B N"]
    lengths: Int[np.ndarray, "B"]
    stream: Stream


def generate(
    model: Titans,
    stream: Stream,
    num_tokens: int,
    sampling: Sampling | None = None,
    *,
    seed: int | Sequence[int] = 0,
    freeze_memory: bool = False,
) -> Generated:
    """Continues every sequence of a stream.

    Args:
        model: the language model.
        stream: after at least one token; used up: give `stream.copy()` to keep it.
        num_tokens: at most this many for each sequence.
        sampling: None for `Sampling()`.
        seed: one per sequence; a single one stands for seed, seed + 1, ... Integers of Python or NumPy, each in
            [0, 2**32); of a larger number, such as a time, take the remainder.
        freeze_memory: read without learning.

    Returns:
        Tokens, their numbers, and the stream after them.

    Raises:
        ValueError: naming the argument that does not fit.
    """
    num_tokens = positive_int("num_tokens", num_tokens)
    decoder = _Decoder(model, stream, sampling or Sampling(), seed, freeze_memory)
    done = np.zeros(stream.length.shape, bool)
    stream, tokens, _ = decoder(stream, 0, num_tokens, done, _buffer(num_tokens))
    return Generated(tokens, (tokens != NO_TOKEN).sum(axis=1), stream)


def generate_tokens(
    model: Titans,
    stream: Stream,
    num_tokens: int,
    sampling: Sampling | None = None,
    *,
    seed: int | Sequence[int] = 0,
    freeze_memory: bool = False,
    burst: int | None = None,
) -> Generator[Int[np.ndarray, "B"], None, Stream]:
    """`generate`, token by token: yields ``[B]`` ids as they come, and returns the stream.

    Args:
        model: the language model.
        stream: after at least one token; used up.
        num_tokens: at most this many.
        sampling: None for `Sampling()`.
        seed: as in `generate`, and the tokens are the same.
        freeze_memory: read without learning.
        burst: tokens per call of the device: more are faster and come later. None: as many as the device makes in
            `BURST_SECONDS`, at most `LONGEST_BURST`.
    """
    num_tokens = positive_int("num_tokens", num_tokens)
    size = positive_int("burst", 1 if burst is None else burst)
    buffer = _buffer(min(num_tokens, LONGEST_BURST if burst is None else size))
    decoder = _Decoder(model, stream, sampling or Sampling(), seed, freeze_memory)
    done = np.zeros(stream.length.shape, bool)
    start = 0
    while start < num_tokens and not done.all():
        count, began = min(size, num_tokens - start), time.perf_counter()
        stream, tokens, done = decoder(stream, start, count, done, buffer)
        start += count
        if burst is None:
            rate = count / max(time.perf_counter() - began, 1e-9)
            size = max(1, min(LONGEST_BURST, int(rate * BURST_SECONDS)))
        for column in tokens.T:
            if (column != NO_TOKEN).any():
                yield column
    return stream


def _buffer(count: int) -> int:
    return 1 << (count - 1).bit_length()


class _Decoder:
    """Model, seeds and options of one generation, checked."""

    def __init__(self, model, stream, sampling, seed, freeze_memory):
        require_unused(stream)
        vocabulary = model.config.vocab_size
        for token in sampling.stop_tokens:
            require(token < vocabulary, "stop_tokens", token, f"below vocab_size = {vocabulary}")
        lengths = np.asarray(stream.length)
        if not lengths.all():
            raise ValueError(
                f"stream must hold at least one token of every sequence, got lengths {lengths.tolist()}: "
                "prefill it, with a document's start token if with nothing else"
            )
        one = np.ndim(seed) == 0
        seeds = [random_seed("seed", seed) + i for i in range(lengths.size)] if one else list(seed)
        if len(seeds) != lengths.size:
            raise ValueError(
                f"seed must be one number or {lengths.size}, one per sequence, got {len(seeds)}"
            )
        self.graphdef, self.params = nnx.split(model)
        seeds = [random_seed("seed", each) for each in seeds]
        self.keys = jax.vmap(jax.random.key)(np.asarray(seeds, np.uint32))
        filters, self.numbers = divide(sampling, vocabulary)
        self.options = {"filters": filters, "freeze_memory": freeze_memory}

    def __call__(
        self, stream: Stream, start: int, count: int, done: np.ndarray, buffer: int
    ) -> tuple[Stream, np.ndarray, np.ndarray]:
        stream, tokens, done = _generate(
            self.graphdef,
            self.params,
            beside(self.params, stream),
            self.keys,
            self.numbers,
            np.int32(start),
            np.int32(count),
            done,
            buffer=buffer,
            **self.options,
        )
        return stream, np.asarray(tokens)[:, :count], np.asarray(done)


@functools.partial(
    jax.jit,
    static_argnames=("graphdef", "buffer", "filters", "freeze_memory"),
    donate_argnames="stream",
)
def _generate(
    graphdef: Any,
    params: Any,
    stream: Stream,
    keys: Array,
    numbers: Numbers,
    start: Array,
    count: Array,
    done: Array,
    *,
    buffer: int,
    filters: Filters,
    freeze_memory: bool,
) -> tuple[Stream, Array, Array]:
    """At most `count` tokens, of which the first is draw number `start`."""
    model = nnx.merge(graphdef, params)
    batch = done.shape[0]

    def goes_on(loop):
        i, _, _, done = loop
        return (i < count) & ~jnp.all(done)

    decoder = _TokenStep(model, freeze_memory)

    def one_token(loop):
        i, stream, tokens, done = loop
        draws = jax.vmap(jax.random.fold_in, in_axes=(0, None))(keys, start + i)
        token = choose(stream.logits, stream.seen, draws, filters, numbers)
        after = decoder(stream, token)
        if filters.stops and batch > 1:  # a single sequence ends the loop when it is done
            after = decoder.select(~done, after, stream)
        tokens = tokens.at[:, i].set(jnp.where(done, NO_TOKEN, token))
        if filters.stops:
            done = done | jnp.isin(token, numbers.stop_tokens)
        return i + 1, after, tokens, done

    tokens = jnp.full((batch, buffer), NO_TOKEN, jnp.int32)
    loop = (jnp.zeros((), jnp.int32), decoder.enter(stream), tokens, done)
    _, stream, tokens, done = jax.lax.while_loop(goes_on, one_token, loop)
    return decoder.leave(stream), tokens, done


class _TokenStep:
    """Feeds one token of each sequence, with the layers side by side where they are few.

    A loop over stacked layers copies every layer's parameters out of the stack for every token, which is
    most of what a small model's token costs. Side by side they are cut from the stack once per call.
    """

    def __init__(self, model: Titans, freeze_memory: bool):
        self.model, self.flags = model, Flags(freeze=freeze_memory)
        layers = model.config.num_layers
        self.unrolled = layers <= UNROLLED_LAYERS
        self.rope_base = model.config.rope_base
        if self.unrolled:
            self.graph, stacked = nnx.split(model.layers)
            self.layers = [_entry(stacked, n) for n in range(layers)]

    def enter(self, stream: Stream) -> Stream:
        """The stream as the loop carries it: caches as `decoding_state` has them, states layer by layer."""
        state = jax.vmap(lambda layer: decoding_state(layer, self.rope_base))(stream.state)
        if self.unrolled:
            state = [_entry(state, n) for n in range(len(self.layers))]
        return stream._replace(state=state)

    def leave(self, stream: Stream) -> Stream:
        """The inverse of `enter`."""
        state = stream.state
        if self.unrolled:
            state = jax.tree.map(lambda *leaves: jnp.stack(leaves), *state)
        return stream._replace(state=jax.vmap(stream_state)(state))

    def __call__(self, stream: Stream, token: Int[Array, "B"]) -> Stream:
        """The stream, as the loop carries it, after one more token."""
        x, states = self.model.embed(token[:, None]), []
        if self.unrolled:
            for layer, state in zip(self.layers, stream.state, strict=True):
                block = nnx.merge(self.graph, layer)
                x, state = block(x, state, self.flags)
                states.append(state)
        else:
            x, states = self.model.blocks(x, stream.state, self.flags)
        rows = jnp.arange(token.shape[0], dtype=jnp.int32)
        seen = stream.seen.at[rows, token].set(True)
        return Stream(states, self.model.logits(x)[:, 0], seen, stream.length + 1)

    def select(self, active: Array, new: Stream, old: Stream) -> Stream:
        """`stream.select` for streams as the loop carries them."""
        axis = 0 if self.unrolled else 1

        def one(new: Array, old: Array) -> Array:
            # A cache has an entry for each head of each sequence.
            flags = jnp.repeat(active, new.shape[axis] // active.size)
            shape = [1] * new.ndim
            shape[axis] = -1
            return jnp.where(flags.reshape(shape), new, old)

        others = select(active, new._replace(state=()), old._replace(state=()))
        return others._replace(state=jax.tree.map(one, new.state, old.state))


def _entry(tree: Any, n: int) -> Any:
    return jax.tree.map(lambda leaf: leaf[n], tree)
