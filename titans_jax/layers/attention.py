"""Causal attention with an always-visible persistent prefix: sliding window, segment and full.

Everything here is a pure function of queries, keys and values that have already been projected, and
of a state that is carried from call to call. Three rules hold throughout:

* the persistent prefix has no position: its keys are not rotated and meet the unrotated query;
* a token attends to no other document: `reset` marks the first token of each;
* padding (`mask` False) is seen by nobody, though it keeps its place.

The window is banded (paper, Eq. 27 and 31): queries are cut into blocks of one window, each looks
at its own block and the one before, and no T x T array exists.

Many tokens at once are attended to by what JAX ships for the platform where it can: splash attention on
a TPU (attention_tpu.py), cuDNN's on a GPU (attention_gpu.py). Those files say what they cannot do; that, and
everything on a CPU, is computed here. A loop that generates token by token has cached_attention.py.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

from titans_jax.layers import attention_gpu, attention_tpu
from titans_jax.layers.norms import statistics_dtype
from titans_jax.layers.rotary import rotate
from titans_jax.registry import registered
from titans_jax.typing import Array, Bool, Float, Int

# Finite, so that a query that sees no key (padding) stays finite in value and gradient.
HIDDEN_SCORE = -1e30


@registered
class WindowState(NamedTuple):
    """The last W tokens of a stream, oldest first. Keys are not rotated."""

    keys: Float[Array, "B W H K"]
    values: Float[Array, "B W H K"]
    visible: Bool[Array, "B W"]  # False before the stream or the document began, and at padding


@registered
class FullState(NamedTuple):
    """All tokens of a stream in a cache of fixed size. Keys are rotated by their index in it.

    Heads are in front, so that a loop that generates tokens takes it as it lies (cached_attention.py).
    """

    keys: Float[Array, "B H S K"]
    values: Float[Array, "B H S K"]
    visible: Bool[Array, "B S"]
    length: Int[Array, "B"]


@registered
class SegmentCache(NamedTuple):
    """A running segment of MAC, C slots of what was recalled and C of its tokens. Keys are rotated by their slot."""

    keys: Float[Array, "B H 2 C K"]
    values: Float[Array, "B H 2 C K"]
    visible: Bool[Array, "B C"]


def attend(
    q: Float[Array, "... Q H K"],
    rotated_q: Float[Array, "... Q H K"],
    rotated_keys: Float[Array, "... S H K"],
    values: Float[Array, "... S H K"],
    visible: Bool[Array, "... Q S"],
    prefix_keys: Float[Array, "P H K"],
    prefix_values: Float[Array, "P H K"],
) -> Float[Array, "... Q H K"]:
    """Softmax attention over the prefix and the visible keys together.

    Args:
        q: queries for the prefix.
        rotated_q: the same queries, rotated by position, for the keys.
        rotated_keys: keys, rotated by position.
        values: values of the keys.
        visible: which key each query may see.
        prefix_keys: keys of the persistent tokens; P may be 0.
        prefix_values: values of the persistent tokens.

    Returns:
        The attended values, in `q`'s dtype. Scores and softmax are in float32 at least.
    """
    arguments = (q, rotated_q, rotated_keys, values, visible, prefix_keys, prefix_values)
    if attention_gpu.runs(*arguments):
        return attention_gpu.attend(*arguments)
    dtype = statistics_dtype(q.dtype)
    scale = q.shape[-1] ** -0.5
    scores = jnp.einsum(
        "...qhk,...shk->...hqs", rotated_q, rotated_keys, preferred_element_type=dtype
    )
    scores = jnp.where(visible[..., None, :, :], scores * scale, HIDDEN_SCORE)
    prefix_scores = jnp.einsum("...qhk,phk->...hqp", q, prefix_keys, preferred_element_type=dtype)
    joint = jnp.concatenate([prefix_scores * scale, scores], axis=-1)
    weights = jax.nn.softmax(joint, axis=-1).astype(q.dtype)
    size = prefix_keys.shape[0]
    out = jnp.einsum("...hqs,...shk->...qhk", weights[..., size:], values)
    return out + jnp.einsum("...hqp,phk->...qhk", weights[..., :size], prefix_values)


def init_window_state(
    batch_size: int, window: int, num_heads: int, head_dim: int, dtype: jax.typing.DTypeLike
) -> WindowState:
    """The state of a stream before its first token: nothing is visible.

    Args:
        batch_size: B.
        window: W.
        num_heads: H.
        head_dim: K.
        dtype: of keys and values.
    """
    empty = jnp.zeros((batch_size, window, num_heads, head_dim), dtype)
    return WindowState(empty, empty, jnp.zeros((batch_size, window), jnp.bool_))


def sliding_window_attention(
    q: Float[Array, "B T H K"],
    k: Float[Array, "B T H K"],
    v: Float[Array, "B T H K"],
    prefix_keys: Float[Array, "P H K"],
    prefix_values: Float[Array, "P H K"],
    state: WindowState,
    *,
    rope_base: float,
    mask: Bool[Array, "B T"] | None = None,
    reset: Bool[Array, "B T"] | None = None,
) -> tuple[Float[Array, "B T H K"], WindowState]:
    """Each token attends to itself, the W - 1 tokens before it, and the prefix. Time O(T W).

    Args:
        q: queries, not rotated.
        k: keys, not rotated.
        v: values.
        prefix_keys: keys of the persistent tokens.
        prefix_values: values of the persistent tokens.
        state: the W tokens before these; its size is the window.
        rope_base: base of the rotary embedding.
        mask: False where a token is padding.
        reset: True where a document starts.

    Returns:
        The attended values and the state after the last token.
    """
    batch, length = q.shape[:2]
    window = state.keys.shape[1]
    keys = jnp.concatenate([state.keys.astype(k.dtype), k], axis=1)  # [B, W+T, H, K]
    values = jnp.concatenate([state.values.astype(v.dtype), v], axis=1)
    valid = jnp.ones((batch, length), jnp.bool_) if mask is None else mask
    valid = jnp.concatenate([state.visible, valid], axis=1)  # [B, W+T]
    document = _documents(reset, batch, length, before=window)  # [B, W+T]

    past = attention_tpu.Past(length, window + length, window)
    if attention_tpu.runs(q, past):
        place = jnp.arange(window + length, dtype=jnp.int32)
        ids = jnp.where(valid, document, attention_tpu.NOBODY)
        out = attention_tpu.attend(
            q,
            rotate(q, place[window:], rope_base),
            rotate(keys, place, rope_base),
            values,
            prefix_keys,
            prefix_values,
            past=past,
            query_ids=ids[:, window:],
            key_ids=ids,
        )
    else:
        out = _banded_attention(
            q, keys, values, prefix_keys, prefix_values, valid, document, rope_base
        )

    last_document = document[:, length:]
    return out, WindowState(
        keys=keys[:, length:].astype(state.keys.dtype),
        values=values[:, length:].astype(state.values.dtype),
        visible=valid[:, length:] & (last_document == last_document[:, -1:]),
    )


def _banded_attention(
    q: Float[Array, "B T H K"],
    keys: Float[Array, "B W+T H K"],
    values: Float[Array, "B W+T H K"],
    prefix_keys: Float[Array, "P H K"],
    prefix_values: Float[Array, "P H K"],
    valid: Bool[Array, "B W+T"],
    document: Int[Array, "B W+T"],
    rope_base: float,
) -> Float[Array, "B T H K"]:
    """`sliding_window_attention` in blocks of a window, given the keys of the window before too."""
    batch, length = q.shape[:2]
    window = keys.shape[1] - length
    # One block when the call is shorter than the window, which keeps decoding at W + 1 keys per
    # token.
    block = min(length, window)
    blocks = -(-length // block)
    padding = blocks * block - length
    queries = _split_blocks(_pad_end(q, padding), block)  # [B, n, Q, H, K]
    query_document = _split_blocks(_pad_end(document[:, window:], padding), block)  # [B, n, Q]
    near_keys = _with_previous(_pad_end(keys, padding), window, block)  # [B, n, W+Q, H, K]
    near_values = _with_previous(_pad_end(values, padding), window, block)
    near_valid = _with_previous(_pad_end(valid, padding), window, block)  # [B, n, W+Q]
    near_document = _with_previous(_pad_end(document, padding), window, block)

    key_position = jnp.arange(window + block, dtype=jnp.int32)
    query_position = key_position[window:]
    lag = query_position[:, None] - key_position  # [Q, W+Q]
    visible = (
        (lag >= 0)
        & (lag < window)
        & near_valid[:, :, None, :]
        & (query_document[:, :, :, None] == near_document[:, :, None, :])
    )
    out = attend(
        queries,
        rotate(queries, query_position, rope_base),
        rotate(near_keys, key_position, rope_base),
        near_values,
        visible,
        prefix_keys,
        prefix_values,
    )
    return out.reshape(batch, blocks * block, *q.shape[2:])[:, :length]


def init_full_state(
    batch_size: int, max_length: int, num_heads: int, head_dim: int, dtype: jax.typing.DTypeLike
) -> FullState:
    """An empty cache for streams of at most `max_length` tokens.

    Args:
        batch_size: B.
        max_length: tokens that the cache has room for.
        num_heads: H.
        head_dim: K.
        dtype: of keys and values.
    """
    empty = jnp.zeros((batch_size, num_heads, max_length, head_dim), dtype)
    visible = jnp.zeros((batch_size, max_length), jnp.bool_)
    return FullState(empty, empty, visible, jnp.zeros((batch_size,), jnp.int32))


def full_attention(
    q: Float[Array, "B T H K"],
    k: Float[Array, "B T H K"],
    v: Float[Array, "B T H K"],
    prefix_keys: Float[Array, "P H K"],
    prefix_values: Float[Array, "P H K"],
    state: FullState,
    *,
    rope_base: float,
    mask: Bool[Array, "B T"] | None = None,
    reset: Bool[Array, "B T"] | None = None,
) -> tuple[Float[Array, "B T H K"], FullState]:
    """Each token attends to itself, to all of its document before it, and to the prefix.

    A stream that outgrows its cache gives NaN from there on: its length is known only on the
    device, and a wrong answer must not pass for a right one.

    Args:
        q: queries, not rotated.
        k: keys, not rotated.
        v: values.
        prefix_keys: keys of the persistent tokens.
        prefix_values: values of the persistent tokens.
        state: the cache.
        rope_base: base of the rotary embedding.
        mask: False where a token is padding.
        reset: True where a document starts.

    Returns:
        The attended values and the cache after the last token.

    Raises:
        ValueError: if these tokens alone are more than the cache can hold.
    """
    batch, length = q.shape[:2]
    size = state.visible.shape[1]
    if length > size:
        raise ValueError(
            f"max_length is {size}, but {length} tokens were given at once: make the state with "
            f"init_state(batch_size, max_length) for the longest stream it will carry"
        )
    position = state.length[:, None] + jnp.arange(length, dtype=jnp.int32)  # [B, T]
    valid = jnp.ones((batch, length), jnp.bool_) if mask is None else mask
    document = _documents(reset, batch, length, before=0)

    write = jax.vmap(
        lambda cache, new, start: jax.lax.dynamic_update_slice_in_dim(cache, new, start, 0)
    )
    put = jax.vmap(
        lambda cache, new, start: jax.lax.dynamic_update_slice_in_dim(cache, new, start, 1)
    )

    def heads_first(x: Array) -> Array:
        return jnp.swapaxes(x, 1, 2)

    rotated = rotate(k, position, rope_base)
    keys = put(state.keys, heads_first(rotated).astype(state.keys.dtype), state.length)
    values = put(state.values, heads_first(v).astype(state.values.dtype), state.length)
    valid = write(state.visible, valid, state.length)
    key_document = write(jnp.zeros((batch, size), jnp.int32), document, state.length)

    slot = jnp.arange(size, dtype=jnp.int32)
    visible = (
        (slot <= position[..., None])
        & valid[:, None, :]
        & (document[..., None] == key_document[:, None, :])
    )
    rotated_q = rotate(q, position, rope_base)
    keys_values = (heads_first(keys).astype(q.dtype), heads_first(values).astype(q.dtype))
    prefix = (prefix_keys, prefix_values)
    # Tokens that fill the cache are all there is, or they overflow it: only then does the kernel know
    # where queries stand among the keys.
    past = attention_tpu.Past(length, size)
    if length == size and attention_tpu.runs(q, past):
        ids = jnp.where(valid, document, attention_tpu.NOBODY)
        out = attention_tpu.attend(
            q, rotated_q, *keys_values, *prefix, past=past, query_ids=ids, key_ids=ids
        )
    else:
        out = attend(q, rotated_q, *keys_values, visible, *prefix)
    # An overflowing write is moved back by the cache and falls on earlier tokens: nothing is right.
    overflow = state.length + length > size  # [B]
    out = jnp.where(overflow[:, None, None, None], jnp.asarray(jnp.nan, out.dtype), out)

    end = state.length + length
    visible_after = valid & (key_document == document[:, -1:]) & (slot < end[:, None])
    return out, FullState(keys, values, visible_after, end)


def segment_attention(
    q: Float[Array, "B Q H K"],
    rotated_keys: Float[Array, "B 2 S H K"],
    values: Float[Array, "B 2 S H K"],
    prefix_keys: Float[Array, "P H K"],
    prefix_values: Float[Array, "P H K"],
    *,
    query_position: Int[Array, "B Q"],
    visible: Bool[Array, "B Q S"],
    rope_base: float,
) -> Float[Array, "B Q H K"]:
    """Attention of MAC over [p || h || segment] (paper, Eq. 22 and 23).

    Read literally the paper lets token i see every h_j of its segment, and h_j is computed from
    token j: here h_j has token j's position and is visible exactly where token j is.

    Args:
        q: queries, not rotated.
        rotated_keys: keys of h, one for each token, and keys of the tokens, rotated by position.
        values: values of both.
        prefix_keys: keys of the persistent tokens.
        prefix_values: values of the persistent tokens.
        query_position: positions of the queries; only differences matter.
        visible: which token each query may see: its own segment's, up to itself. With as many queries as
            keys, token i is both query i and key i, and `visible[b, i, j]` is `j <= i and visible[b, j, j]`.
        rope_base: base of the rotary embedding.

    Returns:
        The attended values.
    """
    batch, _, size, heads, features = rotated_keys.shape
    keys, values = (x.reshape(batch, 2 * size, heads, features) for x in (rotated_keys, values))
    rotated_q = rotate(q, query_position, rope_base)
    length = q.shape[1]
    past = attention_tpu.Past(length, length, copies=2)
    if size == length and attention_tpu.runs(q, past):
        valid = jnp.diagonal(visible, axis1=1, axis2=2)  # [B, Q]
        ids = jnp.where(valid, 0, attention_tpu.NOBODY).astype(jnp.int32)
        return attention_tpu.attend(
            q,
            rotated_q,
            keys,
            values,
            prefix_keys,
            prefix_values,
            past=past,
            query_ids=ids,
            key_ids=jnp.concatenate([ids, ids], axis=1),
        )
    twice = jnp.concatenate([visible, visible], axis=-1)
    return attend(q, rotated_q, keys, values, twice, prefix_keys, prefix_values)


def _documents(
    reset: Bool[Array, "B T"] | None, batch: int, length: int, before: int
) -> Int[Array, "B before+T"]:
    """Number of each token's document within this call; what came before belongs to document 0."""
    if reset is None:
        return jnp.zeros((batch, before + length), jnp.int32)
    return jnp.pad(jnp.cumsum(reset, axis=1, dtype=jnp.int32), ((0, 0), (before, 0)))


def _pad_end(x: Array, padding: int) -> Array:
    return jnp.pad(x, ((0, 0), (0, padding)) + ((0, 0),) * (x.ndim - 2))


def _split_blocks(x: Array, block: int) -> Array:
    return x.reshape(x.shape[0], -1, block, *x.shape[2:])


def _with_previous(x: Array, window: int, block: int) -> Array:
    """Cuts [B, W + n Q, ...] into n overlapping pieces [B, n, W + Q, ...]; n is 1 or Q is W."""
    if x.shape[1] == window + block:
        return x[:, None]
    blocks = _split_blocks(x, block)
    return jnp.concatenate([blocks[:, :-1], blocks[:, 1:]], axis=2)
