"""The executor of every recurrent baseline: a step function over chunks, by ``lax.scan`` or in one kernel.

A baseline is a pure function ``step(carry, x) -> (carry, y)`` of one head and one chunk, as tiles/scan.py runs them.
Its recurrence is linear in the state inside a chunk, so that the chunk is an implementation detail: any chunk, and any
split of a sequence, gives the same numbers.

A token whose inputs are all zero must be an identity step. Padding is made of such tokens, the last chunk is filled
up with them, and no step needs a mask. A document may start at any token: ``starts`` counts the starts in a chunk.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Float

from titans_jax.tiles.grid import from_grid, make_grid, to_grid
from titans_jax.tiles.matrices import column, places, row_sum
from titans_jax.tiles.scan import platform_execution, scan_tiles
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
    **options: Any,
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
        **options: of `fused_scan`, for "fused".

    Returns:
        The state after the last token, and the outputs.
    """
    length, heads = jax.tree.leaves(tokens)[0].shape[1:3]
    chunk = min(chunk, length)
    grid = make_grid(length, chunk, chunk, None)
    tiles = jax.tree.map(lambda x: to_grid(grid, x), tokens)
    if reset is not None:
        counts = jnp.cumsum(to_grid(grid, reset), axis=2)  # [N, B, C]
        counts = counts.astype(jax.tree.leaves(carry)[0].dtype)[..., None]
        tiles = tiles._replace(starts=jnp.broadcast_to(counts, (*counts.shape[:3], heads)))
    carry, y = scan_tiles(
        lambda _, carry, x: step(carry, x),
        None,
        carry,
        tiles,
        execution=platform_execution() if execution == "auto" else execution,
        **options,
    )
    return carry, from_grid(grid, y)


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


def cumulative(x: Float[Array, "1 C"]) -> Float[Array, "C 1"]:
    """Inclusive sums of a row, as a column."""
    row, col = places(x.shape[1])
    return row_sum(jnp.where(col <= row, x, 0.0))
