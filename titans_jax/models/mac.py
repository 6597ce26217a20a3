"""MAC, memory as context: attention over what the memory recalls and the segment (paper, Eq. 21-25).

For each segment S of C tokens, with M the memory at the segment's start and n = norm(x):

    h_j = M*(q_j)                          recalled context, q from a projection of n      (Eq. 21)
    y_i = n_i + g Attn([p || h_1..h_i || n_1..n_i])                                        (Eq. 22, 23)
    M_i = M_{i-1} written with norm(y_i);  m_i = M_i*(norm(y_i))                           (Eq. 24)
    x_i <- x_i + W_O [y_i (x) m_i]                                                         (Eq. 25)

Read literally, Eq. 22 shows token i every h_j of its segment and Eq. 25 reads a memory that has absorbed the
whole segment. Both leak the future; here both are causal token by token, as the indices above say.

y has the residual connection that the paper has "in all blocks" (4.4): Eq. 23 does not show one. Without it the token
itself reaches memory and gate only through attention, whose averages are at first nearly the same for all tokens of a
segment, and what the memory says can only scale such an average: the models train more slowly than their LMM.

g is a learned gain per feature that starts at 0.1. Keys and queries of the memory are made of y, and an average over
whatever else stands in the segment makes those of equal tokens differ: the louder it is, the later a model learns to
find again what it wrote.

Only what depends on the memory is sequential. The projections of n are made for all tokens at once; one
`lax.scan` over segments recalls, attends, writes and reads.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx

from titans_jax.config import TitansConfig
from titans_jax.layers.attention import SegmentCache, segment_attention
from titans_jax.layers.cached_attention import (
    Cache,
    attend_one,
    put,
    scores,
    segment_cache,
    segment_cache_back,
)
from titans_jax.layers.norms import RMSNorm, statistics_dtype
from titans_jax.layers.persistent import PersistentTokens
from titans_jax.layers.rotary import rotate
from titans_jax.layers.self_attention import AttentionProjections
from titans_jax.memory.layer import HeadProjection, NeuralMemory, NeuralMemoryState
from titans_jax.models.combine import GatedCombination
from titans_jax.placement import by_sequences
from titans_jax.registry import registered
from titans_jax.typing import NO_FLAGS, Array, Bool, FastWeights, Flags, Float, Int, TokenFlags

#: Where the attention's gain g starts.
ATTENTION_GAIN = 0.1


@registered
class MACState(NamedTuple):
    """State of one layer's stream."""

    memory: NeuralMemoryState
    segment_weights: FastWeights  # the memory at the running segment's start, the latest if empty
    context_tail: Float[Array, "B w-1 D"]  # convolution tail of the context queries
    cache: SegmentCache | Cache  # the latter in a loop that generates tokens
    offset: Int[Array, "B"]  # tokens already in the running segment, in [0, C)


class _Tokens(NamedTuple):
    """What the sequential part needs of each token."""

    inputs: Float[Array, "B T D"]  # n
    context_q: Float[Array, "B T H K"]
    q: Float[Array, "B T H K"]
    k: Float[Array, "B T H K"]
    v: Float[Array, "B T H K"]
    mask: Bool[Array, "B T"] | None
    reset: Bool[Array, "B T"] | None


class MemoryAsContext(nnx.Module):
    """Sequence layer of the MAC variant."""

    def __init__(self, config: TitansConfig, *, rngs: nnx.Rngs):
        """Makes the norms, the persistent tokens, the projections, the memory and what joins them.

        Args:
            config: the model's configuration.
            rngs: source of the initial parameters.
        """
        dim, dtype, memory = config.dim, config.activation_dtype, config.memory
        self.segment = config.segment
        self.rope_base = config.rope_base
        self.norm = RMSNorm(dim, dtype, rngs=rngs)
        self.persistent = PersistentTokens(config.persistent_tokens, dim, dtype, rngs=rngs)
        self.context_query = HeadProjection(
            dim, memory.num_heads, memory.conv_width, dtype=dtype, rngs=rngs
        )
        self.context_norm = RMSNorm(dim, dtype, rngs=rngs)
        self.projections = AttentionProjections(dim, config.num_heads, dtype, rngs=rngs)
        self.attention_gain = nnx.Param(jnp.full((dim,), ATTENTION_GAIN, statistics_dtype(dtype)))
        self.write_norm = RMSNorm(dim, dtype, rngs=rngs)
        self.memory = NeuralMemory(dim, memory, project_output=False, dtype=dtype, rngs=rngs)
        self.combination = GatedCombination(config, rngs=rngs)
        self.heads_shape = (config.num_heads, dim // config.num_heads)
        self.dtype = dtype

    def init_state(self, batch_size: int, max_length: int | None) -> MACState:
        """The initial memory and an empty segment; `max_length` does not matter."""
        del max_length
        memory = self.memory.init_state(batch_size)
        heads, features = self.heads_shape
        empty = jnp.zeros((batch_size, heads, 2, self.segment, features), self.dtype)
        visible = jnp.zeros((batch_size, self.segment), jnp.bool_)
        return MACState(
            memory=memory,
            segment_weights=memory.memory.weights,
            context_tail=self.context_query.init_tail(batch_size),
            cache=SegmentCache(empty, empty, visible),
            offset=jnp.zeros((batch_size,), jnp.int32),
        )

    def memory_inputs(
        self, x: Float[Array, "B T D"], reset: TokenFlags | None
    ) -> tuple[Float[Array, "B T D"], Float[Array, "P D"] | None]:
        """See `MemoryMixer`; the memory has no persistent tokens."""
        batch = x.shape[0]
        tokens, _ = self._tokens(x, self.context_query.init_tail(batch), None, reset)
        attended, _, _ = self._aligned(tokens, self.init_state(batch, None), False)
        return self.write_norm(attended), None

    def __call__(
        self,
        x: Float[Array, "B T D"],
        state: MACState | None = None,
        flags: Flags = NO_FLAGS,
    ) -> tuple[Float[Array, "B T D"], MACState]:
        """Adds the gated attention to the residual stream.

        Args:
            x: residual stream.
            state: state after the tokens before `x`; None at the start of a stream, where segments
                lie on a grid known before compilation.
            flags: see `Flags`; padding takes a slot of its segment all the same.

        Returns:
            The residual stream and the new state.
        """
        batch = x.shape[0]
        tail = self.context_query.init_tail(batch) if state is None else state.context_tail
        tokens, tail = self._tokens(x, tail, flags.mask, flags.reset)
        if state is None or flags.aligned:
            state = self.init_state(batch, None) if state is None else state
            attended, remembered, state = self._aligned(tokens, state, flags.freeze)
        else:
            attended, remembered, state = self._carried(tokens, state, flags.freeze)
        return x + self.combination(attended, remembered), state._replace(context_tail=tail)

    def _tokens(
        self,
        x: Float[Array, "B T D"],
        tail: Float[Array, "B w-1 D"],
        mask: Bool[Array, "B T"] | None,
        reset: Bool[Array, "B T"] | None,
    ) -> tuple[_Tokens, Float[Array, "B w-1 D"]]:
        """The projections of all tokens, and the new tail of the context queries' convolution."""
        inputs = by_sequences(self.norm(x))
        context_q, tail = self.context_query(inputs, tail, reset, mask)
        queries, keys_values = (
            self.projections.queries(inputs),
            self.projections.keys_values(inputs),
        )
        return _Tokens(inputs, context_q, queries, *keys_values, mask, reset), tail

    def _aligned(
        self, tokens: _Tokens, state: MACState, freeze: bool
    ) -> tuple[Array, Array, MACState]:
        """Tokens from a segment's start on: a scan over whole segments, then what is left over."""
        batch, length = tokens.q.shape[:2]
        whole = length // self.segment * self.segment

        def segment(memory: NeuralMemoryState, piece: _Tokens) -> tuple[NeuralMemoryState, tuple]:
            size = piece.q.shape[1]
            weights = self._opening_weights(memory.memory.weights, _any(piece.reset))
            position = jnp.broadcast_to(jnp.arange(size, dtype=jnp.int32), (batch, size))
            keys_values = self._keys_values(piece, weights, position)
            visible = _causal(position, position) & _valid(piece)[:, None, :]
            attended = self._attend(piece, position, *keys_values, visible)
            remembered, memory = self._write(attended, memory, piece, freeze, aligned=True)
            return memory, (attended, remembered, weights, keys_values)

        def scanned(memory: NeuralMemoryState, piece: _Tokens) -> tuple[NeuralMemoryState, tuple]:
            memory, (attended, remembered, _, _) = segment(memory, piece)
            return memory, (attended, remembered)

        memory, outputs = jax.lax.scan(scanned, state.memory, _frames(tokens, whole, self.segment))
        attended, remembered = (_unframe(leaf) for leaf in outputs)
        if whole == length:
            weights = memory.memory.weights
            return attended, remembered, state._replace(memory=memory, segment_weights=weights)

        last = _after(tokens, whole)
        memory, (last_attended, last_remembered, weights, keys_values) = segment(memory, last)
        missing = self.segment - (length - whole)
        keys, values = (
            jnp.pad(_heads_first(x), ((0, 0),) * 3 + ((0, missing), (0, 0))).astype(self.dtype)
            for x in keys_values
        )
        state = state._replace(
            memory=memory,
            segment_weights=weights,
            cache=SegmentCache(keys, values, jnp.pad(_valid(last), ((0, 0), (0, missing)))),
            offset=jnp.full((batch,), length - whole, jnp.int32),
        )
        attended = jnp.concatenate([attended, last_attended], axis=1)
        remembered = jnp.concatenate([remembered, last_remembered], axis=1)
        return attended, remembered, state

    def _carried(
        self, tokens: _Tokens, state: MACState, freeze: bool
    ) -> tuple[Array, Array, MACState]:
        """Tokens that continue streams: frames of a segment's length, wherever segments begin."""
        length = tokens.q.shape[1]
        whole = length // self.segment * self.segment
        if whole == 0:
            return self._advance(tokens, state, freeze)

        def scanned(state: MACState, piece: _Tokens) -> tuple[MACState, tuple[Array, Array]]:
            attended, remembered, state = self._advance(piece, state, freeze)
            return state, (attended, remembered)

        state, outputs = jax.lax.scan(scanned, state, _frames(tokens, whole, self.segment))
        attended, remembered = (_unframe(leaf) for leaf in outputs)
        if whole == length:
            return attended, remembered, state
        last_attended, last_remembered, state = self._advance(_after(tokens, whole), state, freeze)
        attended = jnp.concatenate([attended, last_attended], axis=1)
        remembered = jnp.concatenate([remembered, last_remembered], axis=1)
        return attended, remembered, state

    def _advance(
        self, piece: _Tokens, state: MACState, freeze: bool
    ) -> tuple[Array, Array, MACState]:
        """At most a segment's length of tokens, which lie in the running segment and in the next.

        The next segment recalls from the memory as the running one leaves it, so the running one's
        tokens are written once to learn that memory, and then all tokens are written in order.
        """
        size = piece.q.shape[1]
        if size == 1:
            return self._single(piece, state, freeze)
        cache = state.cache
        if not isinstance(cache, SegmentCache):
            raise ValueError(
                f"a state that generates tokens takes one at a time, got {size} tokens"
            )
        position = state.offset[:, None] + jnp.arange(size, dtype=jnp.int32)  # [B, Q]
        later = position >= self.segment  # in the next segment
        slots = position % self.segment
        # Keys: the slots of the running segment, then these tokens.
        old_visible = ~later[:, :, None] & cache.visible[:, None, :]
        new_visible = (
            _causal(position, position)
            & (later[:, :, None] == later[:, None, :])
            & _valid(piece)[:, None, :]
        )
        visible = jnp.concatenate([old_visible, new_visible], axis=-1)  # [B, Q, C+Q]

        def attend(new: tuple[Array, Array]) -> Array:
            keys, values = (
                jnp.concatenate([_tokens_first(old).astype(x.dtype), x], axis=2)
                for old, x in zip(cache[:2], new, strict=True)
            )
            return self._attend(piece, slots, keys, values, visible)

        now = _within(piece.reset, ~later)
        weights = self._opening_weights(state.segment_weights, _any(now))
        new = self._keys_values(piece, weights, slots)

        def write_running_segment() -> FastWeights:
            running = piece._replace(mask=_valid(piece) & ~later, reset=now)
            _, memory = self._write(attend(new), state.memory, running, freeze)
            return memory.memory.weights

        next_weights = jax.lax.cond(jnp.any(later), write_running_segment, lambda: weights)
        next_weights = self._opening_weights(next_weights, _any(_within(piece.reset, later)))
        next_new = self._keys_values(piece, next_weights, slots)
        new = jax.tree.map(
            lambda a, b: jnp.where(later[:, None, :, None, None], a, b), next_new, new
        )
        attended = attend(new)
        remembered, memory = self._write(attended, state.memory, piece, freeze)

        end = state.offset + size
        segments = end // self.segment  # 0 or 1: segments completed
        kept = position // self.segment == segments[:, None]
        place = jnp.where(kept, slots, self.segment)  # outside: dropped
        rows = jnp.arange(place.shape[0], dtype=jnp.int32)[:, None]
        keys, values = (
            old.at[rows, :, :, place].set(
                jnp.transpose(x, (0, 2, 3, 1, 4)).astype(old.dtype), mode="drop"
            )
            for old, x in zip(cache[:2], new, strict=True)
        )
        held = cache.visible & (segments == 0)[:, None]
        cache = SegmentCache(keys, values, held.at[rows, place].set(_valid(piece), mode="drop"))
        segment_weights = jax.tree.map(
            lambda running, following, latest: _where(
                end == self.segment, latest, _where(segments == 0, running, following)
            ),
            weights,
            next_weights,
            memory.memory.weights,
        )
        return (
            attended,
            remembered,
            MACState(memory, segment_weights, state.context_tail, cache, end % self.segment),
        )

    def _single(
        self, piece: _Tokens, state: MACState, freeze: bool
    ) -> tuple[Array, Array, MACState]:
        """`_advance` of one token, which lies in the running segment: it is cached first, then attends to the cache."""
        generating = isinstance(state.cache, Cache)
        cache = state.cache if isinstance(state.cache, Cache) else segment_cache(state.cache)
        weights = self._opening_weights(state.segment_weights, _any(piece.reset))
        slot = state.offset[:, None]  # [B 1]
        keys, values = (x[:, :, 0] for x in self._keys_values(piece, weights, slot))  # [B 2 H K]
        places = jnp.concatenate([slot, slot + self.segment], axis=1)
        cache = put(cache, places, keys, values, jnp.tile(_valid(piece), (1, 2)))
        rotated_q = rotate(piece.q, slot, self.rope_base)[:, 0]
        out = attend_one(piece.q[:, 0], scores(rotated_q, cache), cache, *self._prefix())
        attended = self._with_residual(piece, out)
        remembered, memory = self._write(attended, state.memory, piece, freeze)
        end = (state.offset + 1) % self.segment
        opens = end == 0  # the next segment
        segment_weights = jax.lax.cond(
            jnp.any(opens),
            lambda: jax.tree.map(
                lambda latest, old: _where(opens, latest, old), memory.memory.weights, weights
            ),
            lambda: weights,
        )
        cache = cache._replace(visible=cache.visible & ~opens[:, None])
        kept = cache if generating else segment_cache_back(cache)
        return (
            attended,
            remembered,
            MACState(memory, segment_weights, state.context_tail, kept, end),
        )

    def _keys_values(
        self, piece: _Tokens, weights: FastWeights, slots: Int[Array, "B Q"]
    ) -> tuple[Float[Array, "B 2 Q H K"], Float[Array, "B 2 Q H K"]]:
        """Keys, rotated by their slots, and values, of h and of the tokens: h is read from the memory (Eq. 21)."""
        h = self.memory.read(piece.context_q, weights)
        h = by_sequences(self.context_norm(h.reshape(*h.shape[:2], -1)))
        context_keys, context_values = self.projections.keys_values(h)
        keys = jnp.stack(
            [rotate(context_keys, slots, self.rope_base), rotate(piece.k, slots, self.rope_base)],
            axis=1,
        )
        return keys, jnp.stack([context_values, piece.v], axis=1)

    def _prefix(self) -> tuple[Float[Array, "P H K"], Float[Array, "P H K"]]:
        """Keys and values of the persistent tokens."""
        return self.projections.keys_values(self.norm(self.persistent()))

    def _attend(
        self,
        piece: _Tokens,
        position: Int[Array, "B Q"],
        keys: Float[Array, "B 2 S H K"],
        values: Float[Array, "B 2 S H K"],
        visible: Bool[Array, "B Q S"],
    ) -> Float[Array, "B Q D"]:
        """y of Eq. 23."""
        out = segment_attention(
            piece.q,
            keys,
            values,
            *self._prefix(),
            query_position=position,
            visible=visible,
            rope_base=self.rope_base,
        )
        return self._with_residual(piece, out)

    def _with_residual(
        self, piece: _Tokens, out: Float[Array, "B Q H K"] | Float[Array, "B H K"]
    ) -> Float[Array, "B Q D"]:
        """y of Eq. 23 from the attention's output, heads merged."""
        gain = self.attention_gain[...].astype(out.dtype)
        return piece.inputs + gain * out.reshape(piece.inputs.shape)

    def _write(
        self,
        attended: Float[Array, "B Q D"],
        memory: NeuralMemoryState,
        piece: _Tokens,
        freeze: bool,
        aligned: bool = False,
    ) -> tuple[Float[Array, "B Q D"], NeuralMemoryState]:
        """Writes norm(y) and reads after each write (Eq. 24, 25)."""
        return self.memory(
            self.write_norm(attended),
            memory,
            mask=piece.mask,
            reset=piece.reset,
            aligned=aligned,
            freeze=freeze,
        )

    def _opening_weights(
        self, weights: FastWeights, starts_document: Bool[Array, "B"] | None
    ) -> FastWeights:
        """What a segment recalls from: the initial memory where the segment starts a document."""
        if starts_document is None:
            return weights
        initial = self.memory.init_state(starts_document.shape[0]).memory.weights
        return jax.tree.map(lambda new, old: _where(starts_document, new, old), initial, weights)


def _causal(
    query_position: Int[Array, "B Q"], key_position: Int[Array, "B S"]
) -> Bool[Array, "B Q S"]:
    return key_position[:, None, :] <= query_position[:, :, None]


def _valid(piece: _Tokens) -> Bool[Array, "B Q"]:
    return jnp.ones(piece.q.shape[:2], jnp.bool_) if piece.mask is None else piece.mask


def _within(
    reset: Bool[Array, "B Q"] | None, where: Bool[Array, "B Q"]
) -> Bool[Array, "B Q"] | None:
    return None if reset is None else reset & where


def _any(reset: Bool[Array, "B Q"] | None) -> Bool[Array, "B"] | None:
    """Whether a document starts among these tokens of one segment, which then is at its first."""
    return None if reset is None else jnp.any(reset, axis=1)


def _frames(tokens: _Tokens, whole: int, size: int) -> _Tokens:
    """The first `whole` tokens in pieces of `size`, pieces first."""
    return jax.tree.map(
        lambda leaf: jnp.moveaxis(
            leaf[:, :whole].reshape(leaf.shape[0], whole // size, size, *leaf.shape[2:]), 1, 0
        ),
        tokens,
    )


def _unframe(x: Float[Array, "n B Q D"]) -> Float[Array, "B nQ D"]:
    x = jnp.moveaxis(x, 0, 1)
    return x.reshape(x.shape[0], x.shape[1] * x.shape[2], x.shape[3])


def _after(tokens: _Tokens, whole: int) -> _Tokens:
    return jax.tree.map(lambda leaf: leaf[:, whole:], tokens)


def _heads_first(x: Float[Array, "B 2 S H K"]) -> Float[Array, "B H 2 S K"]:
    return jnp.moveaxis(x, 3, 1)


def _tokens_first(x: Float[Array, "B H 2 S K"]) -> Float[Array, "B 2 S H K"]:
    return jnp.moveaxis(x, 1, 3)


def _where(flags: Bool[Array, "B"], true: Array, false: Array) -> Array:
    return jnp.where(flags.reshape(-1, *(1,) * (true.ndim - 1)), true, false)
