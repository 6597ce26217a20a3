"""The memory over the tiles of a grid: the default execution, by ``lax.scan`` ("chunked") or in one kernel ("fused").

Between chunks the dependence is nonlinear (the anchor), so chunks follow each other; a chunk of several tiles has its
anchor in the carry, and the result does not depend on the tile. The same `dual.tile_step` runs in both.

What the kernel saves for backward. With bfloat16 tokens M and S are saved in bfloat16, which halves most of the
kernel's HBM traffic. Their products round them to bfloat16 in any case, so that where every carry is saved backward
computes the same products, and only the gradients of the gates at a tile's end, <dM, M>, <dM, S> and <dS, S>, see the
rounding; where several tiles lie between two saved carries, those in between are recomputed from rounded ones. The M
and S that forward hands from tile to tile, and all of float32's numbers, stay exact.
"""

import dataclasses
from typing import Any

import jax.numpy as jnp

from titans_jax.memory.dual import Carry, Tile, tile_step
from titans_jax.memory.executions.associative import associative_tiles
from titans_jax.memory.gates import Gates, summed
from titans_jax.memory.rule import Rule
from titans_jax.memory.state import MemoryState
from titans_jax.tiles.grid import completed_chunks, from_grid, grid_mask, make_grid, to_grid
from titans_jax.tiles.scan import scan_tiles
from titans_jax.typing import Array, Heads, TokenFlags

#: Beyond this many tokens the [R, R] matrices of a tile cost more than they save; a kernel also has the state
#: of a tile to write, and the matrix units' operands to change.
LARGEST_TILE, LARGEST_FUSED_TILE = 128, 256
#: With the triangular system of ``anchor="token"``, whose inverse grows with R^3, smaller tiles are best.
LARGEST_SOLVED_TILE, LARGEST_FUSED_SOLVED_TILE = 64, 128


def tiled_scan(
    rule: Rule,
    state: MemoryState,
    q: Heads,
    k: Heads,
    v: Heads,
    gates: Gates,
    mask: TokenFlags | None,
    reset: TokenFlags | None,
    initial: Carry | None,
    *,
    chunk: int,
    tile: int | None,
    aligned: bool,
    execution: str,
    **options: Any,
) -> tuple[Heads, MemoryState]:
    """Runs all memories over the tiles of the grid.

    Args:
        rule: the inner step.
        state: before the first token.
        q: queries.
        k: keys.
        v: values.
        gates: fields ``[B, T, H]``, masked already.
        mask: False for tokens that change nothing.
        reset: True where a document starts, at a chunk's first token.
        initial: M and S at a document's start; needed with ``reset``.
        chunk: tokens that share one anchor.
        tile: tokens of a tile; None: chosen.
        aligned: whether ``state.position`` is known to be zero.
        execution: "chunked", "fused" or "associative_scan".
        **options: of `fused_scan`, for "fused".

    Returns:
        The reads and the state after the last token.
    """
    batch, length, heads, _ = q.shape
    online = chunk == 1 and rule.linear and reset is None and execution != "associative_scan"
    if online:  # the last layer, which is the only one, may as well be exact over many tokens: no anchor is needed
        rule = dataclasses.replace(rule, anchor="token")
    tile = tile or choose_tile(rule, length if online else chunk, execution)
    grid = make_grid(
        length, tile if online else chunk, tile, None if aligned or online else state.position
    )

    def on_grid(x):
        return None if x is None else to_grid(grid, x)

    def flags(x):  # [N, B, ...] -> [N, B, R or 1, H]
        x = x.reshape(*x.shape[:2], -1, 1).astype(gates.theta.dtype)
        return jnp.broadcast_to(x, (*x.shape[:3], heads))

    settled = online or (aligned and length % chunk == 0)
    settles = None
    if not (settled and grid.tiles == 1):
        completed = completed_chunks(grid, batch)
        settles = jnp.zeros((grid.chunks, grid.tiles, batch), jnp.bool_).at[:, -1].set(completed)
        settles = flags(settles.reshape(-1, batch))
    moves = grid_mask(grid, mask, batch)
    on_tiles = Gates(*(on_grid(g) for g in gates))
    tokens = Tile(
        *(on_grid(x) for x in (q, k, v)),
        summed(on_tiles) if rule.dense else on_tiles,
        None if moves is None else flags(moves),
        None if reset is None else flags(on_grid(reset)[:, :, :1]),
        settles,
    )
    carry = Carry(state.weights, state.momentum)
    start = (carry, None if settles is None else state.anchor)
    consts = (rule, None if reset is None else initial)
    if execution == "associative_scan":
        (carry, anchor), y = associative_tiles(consts, start, tokens, grid.tiles)
    elif execution == "fused":
        options = {"saved_dtype": saved_dtype(q.dtype)} | options
        (carry, anchor), y = scan_tiles(
            kernel_step, consts, start, tokens, execution="fused", **options
        )
    else:
        (carry, anchor), y = scan_tiles(scan_step, consts, start, tokens, execution="chunked")
    position = state.position if settled else (state.position + length) % chunk
    anchor = carry.weights if anchor is None else anchor
    return from_grid(grid, y), MemoryState(carry.weights, carry.momentum, anchor, position)


def scan_step(consts: Any, state: Any, tile: Tile) -> tuple[Any, Array]:
    """`tile_step` by ``lax.scan``: all in the state's dtype, and columns are transposed rows.

    Args:
        consts: of `tile_step`.
        state: of `tile_step`.
        tile: of `tile_step`.
    """
    dtype = state[0].weights[0].dtype
    wide = {name: getattr(tile, name).astype(dtype) for name in ("q", "k", "v")}
    return tile_step(consts, state, tile._replace(**wide), turn=jnp.transpose)


def kernel_step(consts: Any, state: Any, tile: Tile) -> tuple[Any, Array]:
    """`tile_step` in a kernel: reads have the tokens' dtype.

    Args:
        consts: of `tile_step`.
        state: of `tile_step`.
        tile: of `tile_step`.
    """
    state, y = tile_step(consts, state, tile)
    return state, y.astype(tile.q.dtype)


def saved_dtype(tokens: jnp.dtype) -> jnp.dtype | None:
    """The dtype in which M and S are saved for backward (module docstring), from that of the tokens.

    Args:
        tokens: dtype of the tokens.
    """
    return tokens if tokens == jnp.bfloat16 else None


def choose_tile(rule: Rule, chunk: int, execution: str) -> int:
    """The tile that is used where none is asked for: the chunk, or a divisor of it as large as is useful.

    Args:
        rule: the inner step.
        chunk: tokens that share one anchor.
        execution: of `tiled_scan`.
    """
    fused = execution == "fused"
    if rule.anchor == "token":
        largest = LARGEST_FUSED_SOLVED_TILE if fused else LARGEST_SOLVED_TILE
    else:
        largest = LARGEST_FUSED_TILE if fused else LARGEST_TILE
    if chunk <= largest:
        return chunk
    divisors = [r for r in range(largest // 2, largest + 1) if chunk % r == 0]
    return divisors[-1] if divisors else largest
