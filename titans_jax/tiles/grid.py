"""The grid: where the tokens of a call lie among chunks and tiles.

A scan over tiles sees tokens as ``[N, B, R, ...]``: N tiles of R tokens, so many to a chunk (of the memory: the tokens
that share an anchor). A call that continues a state in the middle of a chunk (position p > 0) puts its tokens at
offset p of the grid; the grid's empty places are masked, and masked tokens are identity steps. So any split of a
sequence runs the same code as the whole.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Bool, Int

from titans_jax.typing import Array, TokenFlags


class Grid(NamedTuple):
    """Shape of the grid of one call, and how its tokens are shifted.

    Attributes:
        length: tokens of the call, T.
        chunks: of the grid; N is ``chunks * tiles``.
        chunk: tokens that share one anchor.
        tile: R; tiles per chunk are ceil(chunk / tile).
        offset: first token's place in the first chunk, per sequence, or None for 0 everywhere.
    """

    length: int
    chunks: int
    chunk: int
    tile: int
    offset: Int[Array, "B"] | None

    @property
    def tiles(self) -> int:
        """Tiles per chunk."""
        return -(-self.chunk // self.tile)

    @property
    def full(self) -> bool:
        """Whether every place of the grid holds a token, so that no mask is needed."""
        return (
            self.offset is None
            and self.chunks * self.chunk == self.length
            and self.tiles * self.tile == self.chunk
        )


def make_grid(length: int, chunk: int, tile: int, offset: Int[Array, "B"] | None) -> Grid:
    """The smallest grid that holds ``length`` tokens at any offset in [0, chunk).

    Args:
        length: tokens of the call, T.
        chunk: tokens that share one anchor.
        tile: tokens of a tile, R.
        offset: first token's place in the first chunk, per sequence; None: 0 everywhere.
    """
    longest = length if offset is None else length + chunk - 1
    return Grid(length, -(-longest // chunk), chunk, tile, offset)


def to_grid(grid: Grid, x: Array) -> Array:
    """``[B, T, ...]`` to ``[N, B, R, ...]``, zeros at empty places.

    Args:
        grid: of the call.
        x: one entry per token.
    """
    batch, rest = x.shape[0], x.shape[2:]
    size = grid.chunks * grid.chunk
    if grid.offset is not None:

        def place(row, start):
            return jax.lax.dynamic_update_slice_in_dim(
                jnp.zeros((size, *rest), x.dtype), row, start, axis=0
            )

        x = jax.vmap(place)(x, grid.offset)
    elif size != grid.length:
        x = jnp.pad(x, [(0, 0), (0, size - grid.length)] + [(0, 0)] * len(rest))
    x = x.reshape(batch, grid.chunks, grid.chunk, *rest)
    extra = grid.tiles * grid.tile - grid.chunk
    if extra:
        x = jnp.pad(x, [(0, 0), (0, 0), (0, extra)] + [(0, 0)] * len(rest))
    x = x.reshape(batch, grid.chunks * grid.tiles, grid.tile, *rest)
    return jnp.moveaxis(x, 0, 1)


def from_grid(grid: Grid, x: Array) -> Array:
    """The inverse of `to_grid`: ``[N, B, R, ...]`` to ``[B, T, ...]``.

    Args:
        grid: of the call.
        x: one entry per place of the grid.
    """
    rest = x.shape[3:]
    x = jnp.moveaxis(x, 1, 0)
    x = x.reshape(-1, grid.chunks, grid.tiles * grid.tile, *rest)[:, :, : grid.chunk]
    x = x.reshape(-1, grid.chunks * grid.chunk, *rest)
    if grid.offset is None:
        return x[:, : grid.length]
    return jax.vmap(
        lambda row, start: jax.lax.dynamic_slice_in_dim(row, start, grid.length, axis=0)
    )(x, grid.offset)


def grid_mask(grid: Grid, mask: TokenFlags | None, batch: int) -> Bool[Array, "N B R"] | None:
    """True where the grid holds a token that counts; None if it does so everywhere.

    Args:
        grid: of the call.
        mask: False for tokens that do not count; None: all count.
        batch: B.
    """
    if mask is None:
        if grid.full:
            return None
        mask = jnp.ones((batch, grid.length), jnp.bool_)
    return to_grid(grid, mask)


def completed_chunks(grid: Grid, batch: int) -> Bool[Array, "chunks B"]:
    """True for the chunks that are full when the call ends: after them the anchor moves on.

    Args:
        grid: of the call.
        batch: B.
    """
    end = jnp.zeros((batch,), jnp.int32) if grid.offset is None else grid.offset
    end = end + grid.length
    return (jnp.arange(1, grid.chunks + 1, dtype=jnp.int32)[:, None] * grid.chunk) <= end


def chunk_flags(grid: Grid, flags: Bool[Array, "chunks B"], tile: int) -> Bool[Array, "N B"]:
    """Flags of chunks as flags of tiles, set at one tile of each chunk.

    Args:
        grid: the grid.
        flags: one per chunk and sequence.
        tile: number of that tile in its chunk.
    """
    by_tile = jnp.zeros((grid.chunks, grid.tiles, flags.shape[1]), jnp.bool_)
    return by_tile.at[:, tile].set(flags).reshape(-1, flags.shape[1])
