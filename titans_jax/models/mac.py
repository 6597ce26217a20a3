"""MAC, memory as context: attention over what the memory recalls and the segment (paper, Eq. 21-25).

For each segment S of C tokens, with M the memory at the segment's start and n = norm(x):

    h_j = M*(q_j)                          recalled context, q from a projection of n      (Eq. 21)
    y_i = Attn([p || h_1..h_i || n_1..n_i])                                                (Eq. 22, 23)
    M_i = M_{i-1} written with norm(y_i);  m_i = M_i*(norm(y_i))                           (Eq. 24)
    x_i <- x_i + W_O [y_i (x) m_i]                                                         (Eq. 25)

Read literally, Eq. 22 shows token i every h_j of its segment and Eq. 25 reads a memory that has absorbed the
whole segment. Both leak the future; here both are causal token by token, as the indices above say.

Only what depends on the memory is sequential. The projections of n are made for all tokens at once; one
`lax.scan` over segments recalls, attends, writes and reads.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx

from titans_jax.config import TitansConfig
from titans_jax.layers.attention import segment_attention
from titans_jax.layers.convolution import tokens_before_padding
from titans_jax.layers.norms import RMSNorm
from titans_jax.layers.persistent import PersistentTokens
from titans_jax.layers.self_attention import AttentionProjections
from titans_jax.memory.layer import HeadProjection, NeuralMemory, NeuralMemoryState
from titans_jax.models.combine import GatedCombination
from titans_jax.typing import Array, Bool, FastWeights, Float, Int


class SegmentCache(NamedTuple):
    """The running segment: one slot per token, keys not rotated."""

    context_keys: Float[Array, "B C H K"]
    context_values: Float[Array, "B C H K"]
    keys: Float[Array, "B C H K"]
    values: Float[Array, "B C H K"]
    visible: Bool[Array, "B C"]


class MACState(NamedTuple):
    """State of one layer's stream."""

    memory: NeuralMemoryState
    segment_weights: FastWeights  # the memory at the running segment's start
    context_tail: Float[Array, "B w-1 D"]  # convolution tail of the context queries
    cache: SegmentCache
    offset: Int[Array, "B"]  # tokens already in the running segment, in [0, C)


class _Tokens(NamedTuple):
    """What the sequential part needs of each token."""

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
        self.write_norm = RMSNorm(dim, dtype, rngs=rngs)
        self.memory = NeuralMemory(dim, memory, project_output=False, dtype=dtype, rngs=rngs)
        self.combination = GatedCombination(config, rngs=rngs)
        self.heads_shape = (config.num_heads, dim // config.num_heads)
        self.dtype = dtype

    def init_state(self, batch_size: int, max_length: int | None) -> MACState:
        """The initial memory and an empty segment; `max_length` does not matter."""
        del max_length
        memory = self.memory.init_state(batch_size)
        empty = jnp.zeros((batch_size, self.segment, *self.heads_shape), self.dtype)
        visible = jnp.zeros((batch_size, self.segment), jnp.bool_)
        return MACState(
            memory=memory,
            segment_weights=memory.memory.weights,
            context_tail=self.context_query.init_tail(batch_size),
            cache=SegmentCache(empty, empty, empty, empty, visible),
            offset=jnp.zeros((batch_size,), jnp.int32),
        )

    def __call__(
        self,
        x: Float[Array, "B T D"],
        state: MACState | None = None,
        *,
        mask: Bool[Array, "B T"] | None = None,
        reset: Bool[Array, "B T"] | None = None,
    ) -> tuple[Float[Array, "B T D"], MACState]:
        """Adds the gated attention to the residual stream.

        Args:
            x: residual stream.
            state: state after the tokens before `x`; None at the start of a stream, where segments
                lie on a grid known before compilation.
            mask: False where a token is padding; it takes a slot of its segment all the same.
            reset: True where a document starts, at a segment's first token.

        Returns:
            The residual stream and the new state.
        """
        batch = x.shape[0]
        inputs = self.norm(x)
        tail = self.context_query.init_tail(batch) if state is None else state.context_tail
        context_q, tail = self.context_query(inputs, tail, reset, mask)
        tokens = _Tokens(
            context_q,
            self.projections.queries(inputs),
            *self.projections.keys_values(inputs),
            mask,
            reset,
        )
        if state is None and mask is None:
            attended, remembered, state = self._fresh(tokens)
        else:
            if state is None:
                state = self.init_state(batch, None)
            attended, remembered, state = self._carried(tokens, state)
        return x + self.combination(attended, remembered), state._replace(context_tail=tail)

    def _fresh(self, tokens: _Tokens) -> tuple[Array, Array, MACState]:
        """All tokens of a new stream: a scan over whole segments, then what is left over."""
        batch, length = tokens.q.shape[:2]
        whole = length // self.segment * self.segment
        state = self.init_state(batch, None)

        def segment(memory: NeuralMemoryState, piece: _Tokens) -> tuple[NeuralMemoryState, tuple]:
            weights = self._opening_weights(memory.memory.weights, piece.reset)
            context = self._recall(piece.context_q, weights)
            size = piece.q.shape[1]
            visible = jnp.ones((batch, size), jnp.bool_)
            cache = SegmentCache(*context, piece.k, piece.v, visible)
            attended = self._attend(piece.q, cache, jnp.zeros((batch,), jnp.int32))
            remembered, memory = self.memory(self.write_norm(attended), memory, reset=piece.reset)
            return memory, (attended, remembered, weights, cache)

        def scanned(memory: NeuralMemoryState, piece: _Tokens) -> tuple[NeuralMemoryState, tuple]:
            memory, (attended, remembered, _, _) = segment(memory, piece)
            return memory, (attended, remembered)

        pieces = jax.tree.map(
            lambda leaf: jnp.moveaxis(
                leaf[:, :whole].reshape(batch, -1, self.segment, *leaf.shape[2:]), 1, 0
            ),
            tokens,
        )
        memory, outputs = jax.lax.scan(scanned, state.memory, pieces)
        attended, remembered = (
            jnp.moveaxis(leaf, 0, 1).reshape(batch, whole, leaf.shape[-1]) for leaf in outputs
        )
        if whole == length:
            return attended, remembered, state._replace(memory=memory)

        rest = jax.tree.map(lambda leaf: leaf[:, whole:], tokens)
        memory, (last_attended, last_remembered, weights, cache) = segment(memory, rest)
        missing = self.segment - (length - whole)
        state = state._replace(
            memory=memory,
            segment_weights=weights,
            cache=jax.tree.map(
                lambda leaf: jnp.pad(leaf, ((0, 0), (0, missing)) + ((0, 0),) * (leaf.ndim - 2)),
                cache,
            ),
            offset=jnp.full((batch,), length - whole, jnp.int32),
        )
        attended = jnp.concatenate([attended, last_attended], axis=1)
        remembered = jnp.concatenate([remembered, last_remembered], axis=1)
        return attended, remembered, state

    def _carried(self, tokens: _Tokens, state: MACState) -> tuple[Array, Array, MACState]:
        """Tokens that continue a stream whose segment is partly filled, each sequence at its own slot.

        Every step of the scan takes, from each sequence, the tokens that fall into one segment. Their
        number differs from sequence to sequence, so they are gathered and the rest is masked.
        """
        batch, length = tokens.q.shape[:2]
        size = min(length, self.segment)
        steps = 1 + -(-(length - 1) // self.segment)  # enough for any offset
        seen = tokens_before_padding(tokens.mask, batch, length)
        first_offset = state.offset

        def step(state: MACState, index: Array) -> tuple[MACState, tuple[Array, Array]]:
            begin = jnp.clip(index * self.segment - first_offset, 0, seen)
            count = jnp.clip((index + 1) * self.segment - first_offset, 0, seen) - begin
            local = jnp.arange(size, dtype=jnp.int32)
            inside = local < count[:, None]  # [B, size]
            source = jnp.minimum(begin[:, None] + local, length - 1)
            piece: _Tokens = jax.tree.map(lambda leaf: _take(leaf, source), tokens)
            attended, remembered, state = self._advance(piece, inside, count, state)
            return state, (attended, remembered)

        state, outputs = jax.lax.scan(step, state, jnp.arange(steps, dtype=jnp.int32))
        place = first_offset[:, None] + jnp.arange(length, dtype=jnp.int32)  # [B, T]
        chosen = place // self.segment
        begin = jnp.maximum(chosen * self.segment - first_offset[:, None], 0)
        local = place - first_offset[:, None] - begin
        index = chosen * size + jnp.minimum(local, size - 1)
        attended, remembered = (
            _take(jnp.moveaxis(leaf, 0, 1).reshape(batch, steps * size, -1), index)
            for leaf in outputs
        )
        return attended, remembered, state

    def _advance(
        self, piece: _Tokens, inside: Bool[Array, "B Q"], count: Int[Array, "B"], state: MACState
    ) -> tuple[Array, Array, MACState]:
        """Tokens of one segment: the first `count` of each sequence's are `inside`, the others do nothing."""
        valid = inside if piece.mask is None else inside & piece.mask
        reset = None if piece.reset is None else inside & piece.reset
        opening = (state.offset == 0) & (count > 0)  # [B]
        weights = jax.tree.map(
            lambda now, start: _where(opening, now, start),
            state.memory.memory.weights,
            state.segment_weights,
        )
        weights = self._opening_weights(weights, reset)

        slot = state.offset[:, None] + jnp.arange(inside.shape[1], dtype=jnp.int32)
        slot = jnp.where(inside, slot, self.segment)  # outside the cache: dropped
        rows = jnp.arange(inside.shape[0], dtype=jnp.int32)[:, None]
        context = self._recall(piece.context_q, weights)
        held = state.cache._replace(visible=state.cache.visible & ~opening[:, None])
        cache: SegmentCache = jax.tree.map(
            lambda old, new: old.at[rows, slot].set(new.astype(old.dtype), mode="drop"),
            held,
            SegmentCache(*context, piece.k, piece.v, valid),
        )
        attended = self._attend(piece.q, cache, state.offset)
        # A single token without padding is the decoding step; it has nothing to mask.
        mask = None if inside.shape[1] == 1 and piece.mask is None else valid
        remembered, memory = self.memory(
            self.write_norm(attended), state.memory, mask=mask, reset=reset
        )
        return (
            attended,
            remembered,
            MACState(
                memory=memory,
                segment_weights=weights,
                context_tail=state.context_tail,
                cache=cache,
                offset=(state.offset + count) % self.segment,
            ),
        )

    def _recall(
        self, context_q: Float[Array, "B Q H K"], weights: FastWeights
    ) -> tuple[Float[Array, "B Q H K"], Float[Array, "B Q H K"]]:
        """Keys and values of h: the memory is read, and not written."""
        h = self.memory.read(context_q, weights)
        h = self.context_norm(h.reshape(*h.shape[:2], -1))
        return self.projections.keys_values(h)

    def _attend(
        self, q: Float[Array, "B Q H K"], cache: SegmentCache, offset: Int[Array, "B"]
    ) -> Float[Array, "B Q D"]:
        prefix = self.projections.keys_values(self.norm(self.persistent()))
        out = segment_attention(q, *cache, *prefix, offset, rope_base=self.rope_base)
        return out.reshape(*out.shape[:2], -1)

    def _opening_weights(
        self, weights: FastWeights, reset: Bool[Array, "B Q"] | None
    ) -> FastWeights:
        """The memory that a segment recalls from: the initial one where the segment starts a document."""
        if reset is None:
            return weights
        initial = self.memory.init_state(reset.shape[0]).memory.weights
        return jax.tree.map(lambda new, old: _where(reset[:, 0], new, old), initial, weights)


def _take(x: Array, index: Int[Array, "B Q"]) -> Array:
    """Picks tokens (axis 1) of each sequence."""
    return jnp.take_along_axis(x, index.reshape(*index.shape, *(1,) * (x.ndim - 2)), axis=1)


def _where(flags: Bool[Array, "B"], true: Array, false: Array) -> Array:
    return jnp.where(flags.reshape(-1, *(1,) * (true.ndim - 1)), true, false)
