"""`scan_tiles`: a step over the tiles of every sequence and head, by ``lax.scan`` or inside one kernel.

A step is a pure function ``(consts, carry, x) -> (carry, y)`` of one head and one tile on 2-D arrays: a token's
vectors are rows of ``[R, K]``, its scalars are entries of ``[1, R]``. The memory and every recurrent baseline are one
such step each. Which of the two executions runs changes no number but by rounding.

By ``lax.scan`` the step is rematerialised in the backward pass: what one tile saves would be an order of magnitude
more than the carry. In the kernel (`pallas_kernels.fused_scan`) the carry stays on the chip for a whole sequence, and
every head of the batch is a group of its own. Under a mesh kernels are shared out as placement.py says.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, Literal

import jax
from jax.sharding import PartitionSpec

from pallas_kernels.fused_scan import fused_scan
from titans_jax.placement import kernel_shares, target_platform
from titans_jax.typing import Array, PyTree

TileExecution = Literal["chunked", "fused"]

#: ``(consts, carry, x) -> (carry, y)`` of one head and one tile.
TileStep = Callable[[Any, Any, Any], tuple[Any, Array]]


def platform_execution() -> TileExecution:
    """The faster execution of the platform that is compiled for: "fused" on a TPU, else "chunked"."""
    return "fused" if target_platform() == "tpu" else "chunked"


def scan_tiles(
    step: TileStep,
    consts: PyTree,
    carry: PyTree,
    xs: PyTree,
    *,
    execution: TileExecution,
    **options: Any,
) -> tuple[PyTree, Array]:
    """Runs a step over all tiles, for every sequence and head.

    Args:
        step: of one head and one tile.
        consts: what the tiles of a head share, leaves ``[H, rows, cols]``.
        carry: before the first tile, leaves ``[B, H, rows, cols]``.
        xs: the tiles, leaves ``[N, B, R, H, K]`` for the rows of a matrix and ``[N, B, R, H]`` for scalars; an R of
            1 is a scalar of the tile.
        execution: "chunked" (``lax.scan``) or "fused" (one kernel).
        **options: of `fused_scan`, for "fused".

    Returns:
        The carry after the last tile, and the outputs ``[N, B, R, H, K]``.
    """
    if execution == "chunked":
        return _by_scan(step, consts, carry, xs)
    by_kernel = functools.partial(_by_kernel, step, options)
    batch, heads = jax.tree.leaves(carry)[0].shape[:2]
    shares = kernel_shares(batch, heads)
    if shares is None:
        return by_kernel(consts, carry, xs)
    states = PartitionSpec(shares.batch, shares.heads)
    tokens = PartitionSpec(None, shares.batch, None, shares.heads)
    return jax.shard_map(
        by_kernel,
        in_specs=(PartitionSpec(shares.heads), states, tokens),
        out_specs=(states, tokens),
        axis_names=shares.axes,
    )(consts, carry, xs)


def _by_scan(step: TileStep, consts: PyTree, carry: PyTree, xs: PyTree) -> tuple[PyTree, Array]:
    @jax.checkpoint
    def one_head(consts: Any, carry: Any, x: Any) -> tuple[Any, Array]:
        return step(consts, carry, jax.tree.map(lambda a: a[None] if a.ndim == 1 else a, x))

    # Heads stay behind the tokens, where the projections put them: they move within the loop's body, tile by tile
    # in the cache, and the gradients of the tokens leave the loop as the projections' backward wants them.
    heads = jax.vmap(one_head, in_axes=(0, 0, 1), out_axes=(0, 1))
    sequences = jax.vmap(heads, in_axes=(None, 0, 0))
    return jax.lax.scan(functools.partial(sequences, consts), carry, xs)


def _by_kernel(
    step: TileStep, options: dict[str, Any], consts: PyTree, carry: PyTree, xs: PyTree
) -> tuple[PyTree, Array]:
    """On one device: every head of every sequence is a group."""
    batch, heads = jax.tree.leaves(carry)[0].shape[:2]

    def grouped(a: Array) -> Array:  # [N, B, R, H, ...] -> [B * H, N, rows, cols]
        if a.ndim == 4:
            return a.transpose(1, 3, 0, 2).reshape(batch * heads, a.shape[0], 1, a.shape[2])
        a = a.transpose(1, 3, 0, 2, 4)
        return a.reshape(batch * heads, *a.shape[2:])

    end, y = fused_scan(
        step,
        consts,
        jax.tree.map(lambda a: a.reshape(batch * heads, *a.shape[2:]), carry),
        jax.tree.map(grouped, xs),
        **options,
    )
    end = jax.tree.map(lambda a: a.reshape(batch, heads, *a.shape[1:]), end)
    return end, y.reshape(batch, heads, *y.shape[1:]).transpose(2, 0, 3, 1, 4)
