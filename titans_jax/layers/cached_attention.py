"""Attention of one token to a cache: what every generated token pays, in the layout that makes it cheapest.

A loop that generates tokens carries its caches as ``[N S K]``, N = B x H: there scores and sums are matrix-vector
products of the cache as it lies, and a token's key is written in place. In any other layout XLA copies the whole
cache for every token. `decoding_state` brings what a stream keeps into this layout, `stream_state` back.

A window becomes a ring: token t lies in slot t mod W, its key rotated by the slot. Before the query's slot i the
distance is i minus the slot, after it i + W minus the slot, so the query is rotated twice. No key is ever rotated
again, and no position grows.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from titans_jax.layers.attention import HIDDEN_SCORE, FullState, SegmentCache, WindowState
from titans_jax.layers.norms import statistics_dtype
from titans_jax.layers.rotary import rotate
from titans_jax.registry import registered
from titans_jax.typing import Array, Bool, Float, Int


@registered
class Cache(NamedTuple):
    """Keys, rotated, and values, head by head of each sequence: N = B x H."""

    keys: Float[Array, "N S K"]
    values: Float[Array, "N S K"]
    visible: Bool[Array, "B S"]


@registered
class RingState(NamedTuple):
    """`WindowState` while tokens are generated."""

    cache: Cache
    plain_keys: Float[Array, "N W K"]  # not rotated, for the window that this becomes again
    slot: Int[Array, "B"]  # of the next token: the oldest one's


@registered
class FullCache(NamedTuple):
    """`FullState` while tokens are generated."""

    cache: Cache
    length: Int[Array, "B"]


def put(
    cache: Cache,
    slots: Int[Array, "B M"],
    keys: Float[Array, "B M H K"],
    values: Float[Array, "B M H K"],
    visible: Bool[Array, "B M"],
) -> Cache:
    """Writes tokens into slots; a slot that is not there is left out.

    Args:
        cache: before.
        slots: where each token goes.
        keys: rotated.
        values: beside them.
        visible: whether the tokens are seen.
    """
    return Cache(
        _put(cache.keys, slots, keys),
        _put(cache.values, slots, values),
        _write(cache.visible, slots, visible),
    )


def _put(
    old: Float[Array, "N S K"], slots: Int[Array, "B M"], new: Float[Array, "B M H K"]
) -> Float[Array, "N S K"]:
    new = jnp.swapaxes(new, 1, 2).reshape(old.shape[0], -1, old.shape[-1])  # [N M K]
    return _write(old, slots, new.astype(old.dtype))


def _write(old: Array, slots: Int[Array, "B M"], new: Array) -> Array:
    """`new`, M entries of each row of `old`, in the slots of the row's sequence."""
    sequences, entries = slots.shape
    if sequences > 1:
        rows = jnp.arange(old.shape[0], dtype=jnp.int32)[:, None]
        of_row = jnp.repeat(slots, old.shape[0] // sequences, axis=0)
        return old.at[rows, of_row].set(new, mode="drop")
    # All rows have the same slots: slices, which XLA's CPU backend takes into a loop of one kernel, unlike a scatter.
    for m in range(entries):
        slot = slots[0, m]
        there = slot < old.shape[1]
        before = jax.lax.dynamic_slice_in_dim(old, slot, 1, axis=1)
        entry = jnp.where(there, new[:, m : m + 1], before)
        old = jax.lax.dynamic_update_slice_in_dim(old, entry, slot, axis=1)
    return old


def scores(q: Float[Array, "B H K"], cache: Cache) -> Float[Array, "N S"]:
    """Products of one query per sequence, rotated, with its keys, in float32 at least.

    Args:
        q: queries.
        cache: with the keys.
    """
    keys = cache.keys.astype(q.dtype)
    flat = q.reshape(keys.shape[0], q.shape[-1])
    return jnp.einsum("nk,nsk->ns", flat, keys, preferred_element_type=statistics_dtype(q.dtype))


def attend_one(
    q: Float[Array, "B H K"],
    scores: Float[Array, "N S"],
    cache: Cache,
    prefix_keys: Float[Array, "P H K"],
    prefix_values: Float[Array, "P H K"],
) -> Float[Array, "B H K"]:
    """`attention.attend` of one query per sequence.

    Args:
        q: queries for the prefix, not rotated.
        scores: their products with the cache's keys.
        cache: keys, values, and which are visible.
        prefix_keys: keys of the persistent tokens; P may be 0.
        prefix_values: values of the persistent tokens.

    Returns:
        The attended values, in `q`'s dtype.
    """
    (batch, heads, features), size = q.shape, prefix_keys.shape[0]
    prefix = jnp.einsum("bhk,phk->bhp", q, prefix_keys, preferred_element_type=scores.dtype)
    joint = jnp.concatenate([prefix.reshape(batch * heads, size), scores], axis=-1)
    visible = jnp.pad(cache.visible, ((0, 0), (size, 0)), constant_values=True)
    hidden = jnp.where(jnp.repeat(visible, heads, axis=0), 0.0, HIDDEN_SCORE).astype(scores.dtype)
    weights = jax.nn.softmax(joint * features**-0.5 + hidden, axis=-1).astype(q.dtype)
    out = jnp.einsum("ns,nsk->nk", weights[:, size:], cache.values.astype(q.dtype))
    near = weights[:, :size].reshape(batch, heads, size)
    return out.reshape(q.shape) + jnp.einsum("bhp,phk->bhk", near, prefix_values)


def ring_attention(
    q: Float[Array, "B H K"],
    k: Float[Array, "B H K"],
    v: Float[Array, "B H K"],
    prefix_keys: Float[Array, "P H K"],
    prefix_values: Float[Array, "P H K"],
    state: RingState,
    *,
    rope_base: float,
) -> tuple[Float[Array, "B H K"], RingState]:
    """`sliding_window_attention` of one token per sequence.

    Args:
        q: queries, not rotated.
        k: keys, not rotated.
        v: values.
        prefix_keys: keys of the persistent tokens.
        prefix_values: values of the persistent tokens.
        state: the window before these tokens.
        rope_base: base of the rotary embedding.

    Returns:
        The attended values and the state after the token.
    """
    window = state.cache.visible.shape[1]
    slot = state.slot[:, None]  # [B 1]
    q, k, v = (x[:, None] for x in (q, k, v))  # [B 1 H K]
    seen = jnp.ones_like(slot, jnp.bool_)
    cache = put(state.cache, slot, rotate(k, slot, rope_base), v, seen)
    before = jnp.arange(window, dtype=jnp.int32) <= slot  # [B W]
    found = jnp.where(
        jnp.repeat(before, q.shape[2], axis=0),
        scores(rotate(q, slot, rope_base)[:, 0], cache),
        scores(rotate(q, slot + window, rope_base)[:, 0], cache),
    )
    out = attend_one(q[:, 0], found, cache, prefix_keys, prefix_values)
    return out, RingState(cache, _put(state.plain_keys, slot, k), (state.slot + 1) % window)


def full_cache_attention(
    q: Float[Array, "B H K"],
    k: Float[Array, "B H K"],
    v: Float[Array, "B H K"],
    prefix_keys: Float[Array, "P H K"],
    prefix_values: Float[Array, "P H K"],
    state: FullCache,
    *,
    rope_base: float,
) -> tuple[Float[Array, "B H K"], FullCache]:
    """`full_attention` of one token per sequence; NaN where the cache has no room for it.

    Args:
        q: queries, not rotated.
        k: keys, not rotated.
        v: values.
        prefix_keys: keys of the persistent tokens.
        prefix_values: values of the persistent tokens.
        state: the tokens before these.
        rope_base: base of the rotary embedding.

    Returns:
        The attended values and the state after the token.
    """
    place = state.length[:, None]
    q, k, v = (x[:, None] for x in (q, k, v))  # [B 1 H K]
    seen = jnp.ones_like(place, jnp.bool_)
    cache = put(state.cache, place, rotate(k, place, rope_base), v, seen)
    found = scores(rotate(q, place, rope_base)[:, 0], cache)
    out = attend_one(q[:, 0], found, cache, prefix_keys, prefix_values)
    overflow = (place >= cache.visible.shape[1])[..., None]
    out = jnp.where(overflow, jnp.asarray(jnp.nan, out.dtype), out)
    return out, FullCache(cache, state.length + 1)


def decoding_state(state: Any, rope_base: float) -> Any:
    """A model's state as a loop over single tokens carries it.

    Args:
        state: of one layer, its leaves ``[B, ...]``.
        rope_base: base of the rotary embedding.
    """

    def convert(node: Any) -> Any:
        if isinstance(node, WindowState):
            slots = jnp.arange(node.visible.shape[1], dtype=jnp.int32)
            rotated = rotate(node.keys, slots, rope_base)
            slot = jnp.zeros(node.visible.shape[:1], jnp.int32)
            cache = Cache(_by_heads(rotated), _by_heads(node.values), node.visible)
            return RingState(cache, _by_heads(node.keys), slot)
        if isinstance(node, FullState):
            keys, values = (x.reshape(-1, *x.shape[2:]) for x in (node.keys, node.values))
            return FullCache(Cache(keys, values, node.visible), node.length)
        if isinstance(node, SegmentCache):
            return segment_cache(node)
        return node

    kinds = (WindowState, FullState, SegmentCache)
    return jax.tree.map(convert, state, is_leaf=lambda node: isinstance(node, kinds))


def stream_state(state: Any) -> Any:
    """The inverse of `decoding_state`.

    Args:
        state: from `decoding_state`.
    """

    def convert(node: Any) -> Any:
        if isinstance(node, RingState):
            batch, window = node.cache.visible.shape
            oldest_first = (node.slot[:, None] + jnp.arange(window, dtype=jnp.int32)) % window
            rows = jnp.arange(batch, dtype=jnp.int32)[:, None]
            plain = (_by_tokens(node.plain_keys, batch), _by_tokens(node.cache.values, batch))
            return WindowState(*(x[rows, oldest_first] for x in (*plain, node.cache.visible)))
        if isinstance(node, FullCache):
            batch = node.length.shape[0]
            keys, values = (x.reshape(batch, -1, *x.shape[1:]) for x in node.cache[:2])
            return FullState(keys, values, node.cache.visible, node.length)
        if isinstance(node, Cache):
            return segment_cache_back(node)
        return node

    kinds = (RingState, FullCache, Cache)
    return jax.tree.map(convert, state, is_leaf=lambda node: isinstance(node, kinds))


def segment_cache(cache: SegmentCache) -> Cache:
    """Slots of what was recalled, then those of the tokens.

    Args:
        cache: of a running segment, as a stream keeps it.
    """
    keys, values = (
        x.reshape(x.shape[0] * x.shape[1], -1, x.shape[-1]) for x in (cache.keys, cache.values)
    )
    return Cache(keys, values, jnp.tile(cache.visible, (1, 2)))


def segment_cache_back(cache: Cache) -> SegmentCache:
    """The inverse of `segment_cache`.

    Args:
        cache: from `segment_cache`.
    """
    batch, size = cache.visible.shape
    shape = (batch, -1, 2, size // 2, cache.keys.shape[-1])
    keys, values = (x.reshape(shape) for x in (cache.keys, cache.values))
    return SegmentCache(keys, values, cache.visible[:, : size // 2])


def _by_heads(x: Float[Array, "B S H K"]) -> Float[Array, "N S K"]:
    return jnp.swapaxes(x, 1, 2).reshape(-1, x.shape[1], x.shape[-1])


def _by_tokens(x: Float[Array, "N S K"], batch: int) -> Float[Array, "B S H K"]:
    return jnp.swapaxes(x.reshape(batch, -1, *x.shape[1:]), 1, 2)
