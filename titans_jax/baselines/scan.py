"""The executor of every recurrent baseline: a step function over chunks, by ``lax.scan`` or in one kernel.

A baseline is a pure function ``step(carry, x) -> (carry, y)`` of one head and one chunk, on 2-D arrays: a token's
vectors are rows of ``[C, K]``, its scalars are entries of ``[1, C]``. Its recurrence is linear in the state inside a
chunk, so that the chunk is an implementation detail: any chunk, and any split of a sequence, gives the same numbers.

A token whose inputs are all zero must be an identity step. Padding is made of such tokens, the last chunk is filled
up with them, and no step needs a mask. A document may start at any token: `Resets` counts the starts in a chunk.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec
from jaxtyping import Float

from pallas_kernels.fused_scan import fused_scan
from titans_jax.memory.gates import column
from titans_jax.placement import kernel_shares, target_platform
from titans_jax.typing import Array, PyTree, TokenFlags

RecurrenceExecution = Literal["auto", "chunked", "fused"]

#: ``(carry, x) -> (carry, y)`` of one head and one chunk.
ChunkStep = Callable[[Any, Any], tuple[Any, Float[Array, "C _"]]]


def chunk_scan(
    step: ChunkStep,
    carry: PyTree,
    tokens: Any,
    *,
    chunk: int,
    reset: TokenFlags | None = None,
    execution: RecurrenceExecution = "auto",
) -> tuple[PyTree, Float[Array, "B T H _"]]:
    """Runs a recurrence over a batch of sequences.

    Args:
        step: one head, one chunk.
        carry: state before the first token, leaves ``[B, H, rows, cols]``.
        tokens: a NamedTuple with a field ``starts`` (None here), whose other leaves are ``[B, T, H, K]`` for the
            rows of a matrix and ``[B, T, H]`` for scalars.
        chunk: tokens that one call of the step handles.
        reset: True where a document starts.
        execution: "chunked" (``lax.scan``), "fused" (one kernel), or "auto": by the platform.

    Returns:
        The state after the last token, and the outputs.
    """
    if execution == "auto":
        execution = "fused" if target_platform() == "tpu" else "chunked"
    leaf = jax.tree.leaves(tokens)[0]
    batch, length, heads = leaf.shape[:3]
    chunk = min(chunk, length)
    chunks = -(-length // chunk)
    if reset is not None:
        flags = jnp.pad(reset, ((0, 0), (0, chunks * chunk - length)))
        counts = jnp.cumsum(flags.reshape(batch, chunks, chunk), axis=2)
        counts = counts.reshape(batch, chunks * chunk, 1).astype(jax.tree.leaves(carry)[0].dtype)
        starts = jnp.broadcast_to(counts, (batch, chunks * chunk, heads))[:, :length]
        tokens = tokens._replace(starts=starts)

    def on_grid(x: Array) -> Array:  # [B, N, C, H, ...]
        short = chunks * chunk - length
        if short:
            # A repeated last count, so that the filling belongs to the last document.
            mode = "edge" if reset is not None and x is tokens.starts else "constant"
            x = jnp.pad(x, [(0, 0), (0, short)] + [(0, 0)] * (x.ndim - 2), mode=mode)
        return x.reshape(batch, chunks, chunk, *x.shape[2:])

    grid = jax.tree.map(on_grid, tokens)
    run = _scan if execution == "chunked" else _fused
    carry, y = run(step, carry, grid)
    return carry, y.reshape(batch, chunks * chunk, heads, -1)[:, :length]


def _scan(step: ChunkStep, carry: PyTree, grid: PyTree) -> tuple[PyTree, Array]:
    @jax.checkpoint
    def one_head(carry: Any, x: Any) -> tuple[Any, Array]:
        return step(carry, jax.tree.map(lambda a: a[None] if a.ndim == 1 else a, x))

    heads = jax.vmap(one_head, in_axes=(0, 1), out_axes=(0, 1))
    sequences = jax.vmap(heads)
    xs = jax.tree.map(lambda a: jnp.moveaxis(a, 1, 0), grid)  # [N, B, C, H, ...]
    carry, y = jax.lax.scan(sequences, carry, xs)
    return carry, jnp.moveaxis(y, 0, 1)


def _fused(step: ChunkStep, carry: PyTree, grid: PyTree, **options: Any) -> tuple[PyTree, Array]:
    """`_scan` by a kernel, shared out over the mesh in context as placement.py says."""

    def groups(carry: PyTree, grid: PyTree) -> tuple[PyTree, Array]:
        batch, chunks, length, heads = jax.tree.leaves(grid)[0].shape[:4]

        def grouped(a: Array) -> Array:  # [B * H, N, rows, cols]
            a = jnp.moveaxis(a, 3, 1)
            a = a[:, :, :, None] if a.ndim == 4 else a
            return a.reshape(batch * heads, chunks, *a.shape[3:])

        end, y = fused_scan(
            lambda _, carry, x: step(carry, x),
            None,
            jax.tree.map(lambda a: a.reshape(batch * heads, *a.shape[2:]), carry),
            jax.tree.map(grouped, grid),
            **options,
        )
        end = jax.tree.map(lambda a: a.reshape(batch, heads, *a.shape[1:]), end)
        y = y.reshape(batch, heads, chunks, length, -1)
        return end, jnp.moveaxis(y, 1, 3)

    batch, _, _, heads = jax.tree.leaves(grid)[0].shape[:4]
    shares = kernel_shares(batch, heads)
    if shares is None:
        return groups(carry, grid)
    states = PartitionSpec(shares.batch, shares.heads)
    tokens = PartitionSpec(shares.batch, None, None, shares.heads)
    return jax.shard_map(
        groups,
        in_specs=(states, tokens),
        out_specs=(states, tokens),
        axis_names=shares.axes,
    )(carry, grid)


class Decays(NamedTuple):
    """How a chunk's tokens and the state before it enter its outputs and the state after it.

    Attributes:
        within: ``[t, i]``: what is left at token t of what token i wrote, 0 for i > t.
        before: what is left of the state before the chunk at each token; None for all of it.
        after: what is left of each token at the chunk's end; None for all of it.
        kept: what is left of the state at the chunk's end; None for all of it.
    """

    within: Float[Array, "C C"]
    before: Float[Array, "C 1"] | None
    after: Float[Array, "C 1"] | None
    kept: Float[Array, "1 1"] | None


def chunk_decays(
    length: int,
    dtype: Any,
    log_keep: Float[Array, "1 C"] | None,
    starts: Float[Array, "1 C"] | None,
) -> Decays:
    """Decays of one scalar per token, from sums of logarithms subtracted before ``exp``.

    Args:
        length: C.
        dtype: of the result.
        log_keep: logarithm of each token's decay; None for none.
        starts: documents that started in the chunk up to each token; None for none.
    """
    row, col = places(length)
    within = row >= col
    before = after = kept = None
    if log_keep is not None:
        sums = cumulative(log_keep)  # [C, 1]
        sums_row = jnp.sum(jnp.where(row == col, sums, 0.0), axis=0, keepdims=True)  # [1, C]
        end = jnp.sum(log_keep, axis=1, keepdims=True)  # [1, 1]
        decay = jnp.exp(jnp.where(within, sums - sums_row, -jnp.inf))
        # Rounding must not make a decay grow, so that the exponent's sign is kept.
        before, after, kept = jnp.exp(sums), jnp.exp(jnp.minimum(end - sums, 0.0)), jnp.exp(end)
    else:
        decay = within.astype(dtype)
    if starts is not None:
        apart, first, last, no_start = document_flags(starts)
        decay = jnp.where(apart, 0.0, decay)
        before = first.astype(dtype) if before is None else jnp.where(first, before, 0.0)
        after = last.astype(dtype) if after is None else jnp.where(last, after, 0.0)
        kept = no_start.astype(dtype) if kept is None else jnp.where(no_start, kept, 0.0)
    return Decays(decay, before, after, kept)


def document_flags(starts: Float[Array, "1 C"]) -> tuple[Array, Array, Array, Array]:
    """From the number of starts up to each token, who belongs together.

    Returns:
        ``[C, C]`` whether two tokens are of different documents; ``[C, 1]`` whether a token is of the document before
        the chunk, and of the one after it; ``[1, 1]`` whether no document started.
    """
    counts = column(starts)  # [C, 1]
    end = jnp.max(starts, axis=1, keepdims=True)  # [1, 1]
    return jnp.abs(counts - starts) > 0.5, counts < 0.5, counts > end - 0.5, end < 0.5


def places(length: int) -> tuple[Array, Array]:
    """Row and column numbers of a ``[C, C]`` matrix."""
    shape = (length, length)
    return (
        jax.lax.broadcasted_iota(jnp.int32, shape, 0),
        jax.lax.broadcasted_iota(jnp.int32, shape, 1),
    )


def cumulative(x: Float[Array, "1 C"]) -> Float[Array, "C 1"]:
    """Inclusive sums of a row, as a column."""
    row, col = places(x.shape[1])
    return jnp.sum(jnp.where(col <= row, x, 0.0), axis=1, keepdims=True)


def scaled(factor: Array | None, x: Array) -> Array:
    """``factor * x``, or x where there is no factor."""
    return x if factor is None else factor * x
