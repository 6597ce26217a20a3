"""The memory on an accelerator: chunk by chunk inside one kernel, by `pallas_kernels.fused_scan`.

The carry (M, S, and the anchor where it is not simply M at the tile's start) stays on the chip for a
whole sequence, and every memory of the batch is a group of its own. The kernel's step is the same
`tile_update` that other executions run; only the gates arrive as rows, because a column of scalars would
cost 128 lanes each in the chip's memory, and are turned inside.

What is saved for backward. With bfloat16 tokens M and S are saved in bfloat16, which halves most of the kernel's
HBM traffic. Their products round them to bfloat16 in any case, so that where every carry is saved backward
computes the same products, and only the gradients of the gates at a tile's end, <dM, M>, <dM, S> and <dS, S>, see
the rounding; where several tiles lie between two saved carries, those in between are recomputed from rounded ones.
The M and S that forward hands from tile to tile, and all of float32's numbers, stay exact.

Under a mesh the memories are shared out as placement.py says.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec
from jaxtyping import Float

from pallas_kernels.fused_scan import fused_scan
from titans_jax.memory.chunk import Carry, Tile, tile_update
from titans_jax.memory.chunked import GridTokens, select
from titans_jax.memory.gates import Read, TileGates, column, gate_sums
from titans_jax.memory.networks import MLPNetwork
from titans_jax.placement import kernel_shares
from titans_jax.typing import Array, FastWeights


class FusedConstants(NamedTuple):
    """What all tiles of a memory share."""

    gain: Float[Array, "1 K"] | None
    initial: Carry | None


class FusedCarry(NamedTuple):
    """What a memory hands from tile to tile; no anchor where every tile takes M as it finds it."""

    state: Carry
    anchor: FastWeights | None


class FusedTile(NamedTuple):
    """One tile of one memory, all per-token scalars as rows.

    Attributes:
        q, k, v: tokens.
        keep, read_keep, eta, theta: `gates.GateSums`; ``read_keep`` only for reading before the write.
        moves: 1 for a token, 0 for padding.
        reset: 1 where a document starts with the tile.
        settles: 1 where the anchor becomes M after the tile.
    """

    q: Float[Array, "R K"]
    k: Float[Array, "R K"]
    v: Float[Array, "R K"]
    keep: Float[Array, "1 R"] | None
    read_keep: Float[Array, "1 R"] | None
    eta: Float[Array, "1 R"] | None
    theta: Float[Array, "1 R"]
    moves: Float[Array, "1 R"] | None
    reset: Float[Array, "1 1"] | None
    settles: Float[Array, "1 1"] | None


def fused_step(
    network: MLPNetwork,
    read: Read,
    bound_step: bool,
    consts: FusedConstants,
    carry: FusedCarry,
    x: FusedTile,
) -> tuple[FusedCarry, Float[Array, "R K"]]:
    """One tile of one memory: the body of the kernel.

    Args:
        network: the memory network.
        read: y_t from M_t ("after") or M_{t-1} ("before").
        bound_step: see networks.py.
        consts: of the memory.
        carry: before the tile.
        x: the tile.

    Returns:
        The carry after the tile, and the reads in the dtype of q.
    """
    state, anchor = carry
    if x.reset is not None:
        starts = x.reset > 0.5  # [1, 1]
        state = select(starts, consts.initial, state)
        anchor = None if anchor is None else select(starts, consts.initial.weights, anchor)
    tile = Tile(x.q, x.k, x.v, _turn(x))
    at = state.weights if anchor is None else anchor
    state, y = tile_update(network, consts.gain, at, state, tile, read, bound_step)
    if anchor is not None:
        anchor = select(x.settles > 0.5, state.weights, anchor)
    return FusedCarry(state, anchor), y.astype(x.q.dtype)


def _turn(x: FusedTile) -> TileGates:
    def col(row):
        return None if row is None else column(row)  # [R, 1]

    keep, eta = col(x.keep), col(x.eta)
    return TileGates(
        keep_row=x.keep,
        keep_col=keep,
        keep_end=_last(x.keep),
        read_keep_col=keep if x.read_keep is None else col(x.read_keep),
        eta_row=x.eta,
        eta_col=eta,
        eta_end=_last(x.eta),
        theta_row=x.theta,
        theta_col=col(x.theta),
        moves_row=x.moves,
        moves_col=col(x.moves),
    )


def _last(row: Float[Array, "1 R"] | None) -> Float[Array, "1 1"] | None:
    """The last entry of a row by a masked sum: GPUs have no slices of rows."""
    if row is None:
        return None
    i = jax.lax.broadcasted_iota(jnp.int32, row.shape, 1)
    return jnp.sum(jnp.where(i == row.shape[1] - 1, row, 0.0), axis=1, keepdims=True)


def fused_chunk_scan(
    network: MLPNetwork,
    gain: Float[Array, "H 1 K"] | None,
    carry: Carry,
    anchor: FastWeights,
    tokens: GridTokens,
    initial: Carry | None,
    *,
    read: Read,
    bound_step: bool = False,
    **options,
) -> tuple[Carry, FastWeights, Float[Array, "N tiles B R H K"]]:
    """`chunked.chunked_scan`, whose arguments and results these are, by a kernel on a TPU.

    Args:
        network, gain, carry, anchor, tokens, initial, read, bound_step: see there.
        **options: of `fused_scan`.
    """
    scan = functools.partial(_scan_groups, network, read, bound_step, options)
    arguments = (gain, carry, anchor, tokens, initial if tokens.reset is not None else None)
    batch, heads = tokens.q.shape[2], tokens.q.shape[4]
    shares = kernel_shares(batch, heads)
    if shares is None:
        return scan(*arguments)
    b, h = shares.batch, shares.heads
    state, by_head = PartitionSpec(b, h), PartitionSpec(h)
    matrices = PartitionSpec(None, None, b, None, h)
    by_chunk = PartitionSpec(None, b)
    specs = GridTokens(
        matrices, matrices, matrices, matrices, PartitionSpec(None, None, b), by_chunk, by_chunk
    )
    return jax.shard_map(
        scan,
        in_specs=(by_head, state, state, specs, by_head),
        out_specs=(state, state, matrices),
        axis_names=shares.axes,
    )(*arguments)


def _scan_groups(network, read, bound_step, options, gain, carry, anchor, tokens, initial):
    """`fused_chunk_scan` on one device."""
    chunks, tiles, batch, length, heads, _ = tokens.q.shape
    settled = tokens.completed is None and tiles == 1
    start = FusedCarry(carry, None if settled else anchor)
    options = {"saved_dtype": saved_dtype(tokens.q.dtype)} | options
    (state, anchor), y = fused_scan(
        functools.partial(fused_step, network, read, bound_step),
        FusedConstants(gain, initial),
        jax.tree.map(lambda a: a.reshape(batch * heads, *a.shape[2:]), start),
        grouped_tiles(tokens, read),
        **options,
    )
    y = y.reshape(batch, heads, chunks, tiles, length, -1).transpose(2, 3, 0, 4, 1, 5)
    state, anchor = jax.tree.map(lambda a: a.reshape(batch, heads, *a.shape[1:]), (state, anchor))
    return state, state.weights if settled else anchor, y


def saved_dtype(tokens: jnp.dtype) -> jnp.dtype | None:
    """The dtype in which M and S are saved for backward (module docstring), from that of the tokens."""
    return tokens if tokens == jnp.bfloat16 else None


def grouped_tiles(tokens: GridTokens, read: Read) -> FusedTile:
    """The grid's tokens by memory: ``[B * H, N * tiles, rows, cols]``.

    Args:
        tokens: on the grid.
        read: "after" or "before".
    """
    chunks, tiles, batch, length, heads, width = tokens.q.shape
    dtype = tokens.gates.theta.dtype
    sums = gate_sums(tokens.gates, read)

    def matrix(x):  # [N, tiles, B, R, H, K] -> [G, N * tiles, R, K]
        return x.transpose(2, 4, 0, 1, 3, 5).reshape(batch * heads, -1, length, width)

    def row(x):  # [N, tiles, B, R, H] -> [G, N * tiles, 1, R]
        if x is None:
            return None
        return x.transpose(2, 4, 0, 1, 3).reshape(batch * heads, -1, 1, length)

    def flag(x, tile):  # [N, B] -> [G, N * tiles, 1, 1], set at one tile of each chunk
        if x is None:
            return None
        at = jax.nn.one_hot(tile, tiles, dtype=dtype)  # [tiles]
        by_tile = x.T.astype(dtype)[:, None, :, None] * at  # [B, 1, N, tiles]
        by_tile = jnp.broadcast_to(by_tile, (batch, heads, chunks, tiles))
        return by_tile.reshape(batch * heads, -1, 1, 1)

    completed = tokens.completed
    if completed is None and tiles > 1:
        completed = jnp.ones((chunks, batch), jnp.bool_)
    mask = tokens.mask
    if mask is not None:
        mask = jnp.broadcast_to(mask[..., None], tokens.gates.theta.shape).astype(dtype)
    return FusedTile(
        matrix(tokens.q),
        matrix(tokens.k),
        matrix(tokens.v),
        row(sums.keep),
        None if read == "after" else row(sums.read_keep),
        row(sums.eta),
        row(sums.theta),
        row(mask),
        flag(tokens.reset, 0),
        flag(completed, tiles - 1),
    )
