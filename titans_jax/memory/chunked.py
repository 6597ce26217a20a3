"""The default execution: ``lax.scan`` over chunks, each read and written in the dual form.

Between chunks the dependence is nonlinear (the anchor), so chunks are a scan. With tile < chunk
an inner scan walks the tiles of a chunk at a fixed anchor; the result does not depend on the tile.
The carry is what `fused_scan` keeps on the chip in a kernel. Its step is rematerialised in the
backward pass: what one chunk saves would be an order of magnitude more than the carry.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Bool, Float

from titans_jax.memory.chunk import Carry, Tile, tile_update
from titans_jax.memory.gates import Gates, GateSums, Read, gate_sums, tile_gates
from titans_jax.memory.networks import MLPNetwork
from titans_jax.typing import Array, FastWeights, PyTree


class GridTokens(NamedTuple):
    """All tokens on the chunk grid (grid.py); None where there is nothing to say.

    Heads stay behind the tokens, where the projections put them: they move within the loop's body,
    chunk by chunk in the cache, and the gradients of q, k, v leave the loop as the projections'
    backward wants them.

    Attributes:
        q, k, v: ``[N, tiles, B, R, H, K]``.
        gates: fields ``[N, tiles, B, R, H]``, masked already.
        mask: ``[N, tiles, B, R]``.
        reset: ``[N, B]``: a document starts with the chunk.
        completed: ``[N, B]``: the chunk is full when the call ends. None: all are, and the call
            starts at a chunk's start, so that the anchor is M at the start of every chunk.
    """

    q: Float[Array, "N tiles B R H K"]
    k: Float[Array, "N tiles B R H K"]
    v: Float[Array, "N tiles B R H K"]
    gates: Gates | GateSums
    mask: Bool[Array, "N tiles B R"] | None
    reset: Bool[Array, "N B"] | None
    completed: Bool[Array, "N B"] | None


def each_head(step: Callable) -> Callable:
    """Runs a chunk's step of one head, ``(gain, initial, state, x) -> (state, y)``, for all.

    Args:
        step: of one head: ``x`` is a `GridTokens` without the axes N, B and H, its y ``[tiles, R, K]``.

    Returns:
        ``(gain, initial, state, x) -> (state, y)`` with gain and initial ``[H, ...]``, state
        ``[B, H, ...]``, ``x`` a `GridTokens` without N, and y ``[tiles, B, R, H, K]``.
    """
    head = GridTokens(2, 2, 2, 2, None, None, None)
    sequence = GridTokens(1, 1, 1, 1, 1, 0, 0)
    heads = jax.vmap(step, in_axes=(0, 0, 0, head), out_axes=(0, 2))
    return jax.vmap(heads, in_axes=(None, None, 0, sequence), out_axes=(0, 1))


def select(flag: Bool[Array, ""], new: PyTree, old: PyTree) -> PyTree:
    """``new`` where the flag is set, else ``old``, leaf by leaf."""
    return jax.tree.map(lambda a, b: jnp.where(flag, a, b), new, old)


def chunked_scan(
    network: MLPNetwork,
    gain: Float[Array, "H 1 K"] | None,
    carry: Carry,
    anchor: FastWeights,
    tokens: GridTokens,
    initial: Carry | None,
    *,
    read: Read,
    bound_step: bool = False,
) -> tuple[Carry, FastWeights, Float[Array, "N tiles B R H K"]]:
    """Runs all memories over the chunks of the grid.

    Args:
        network: memory network.
        gain: its norm's gain, for "residual".
        carry: M and S before the first token, ``[B, H, ...]``.
        anchor: M at the start of the running chunk.
        tokens: on the grid.
        initial: M and S at a document's start, ``[H, ...]``; needed with ``tokens.reset``.
        read: y_t from M_t ("after") or M_{t-1} ("before").
        bound_step: see networks.py.

    Returns:
        M and S after the last token, the anchor then, and the reads.
    """

    @jax.checkpoint
    def one_tile(gain, anchor, carry, x):
        q, k, v, sums, mask = x
        tile = Tile(q, k, v, tile_gates(sums, mask)).widened(carry.weights[0].dtype)
        return tile_update(network, gain, anchor, carry, tile, read, bound_step)

    @each_head
    def one_chunk(gain, initial, state, x: GridTokens):
        carry, anchor = state
        if x.reset is not None:
            carry = select(x.reset, initial, carry)
            anchor = None if anchor is None else select(x.reset, initial.weights, anchor)
        at = carry.weights if anchor is None else anchor
        tiles = (x.q, x.k, x.v, x.gates, x.mask)
        if x.q.shape[0] == 1:
            carry, y = one_tile(gain, at, carry, jax.tree.map(lambda a: a[0], tiles))
            y = y[None]
        else:
            carry, y = jax.lax.scan(lambda c, t: one_tile(gain, at, c, t), carry, tiles)
        if anchor is not None:
            anchor = select(x.completed, carry.weights, anchor)
        return (carry, anchor), y

    start = (carry, None if tokens.completed is None else anchor)
    tokens = tokens._replace(gates=gate_sums(tokens.gates, read))
    (carry, anchor), y = jax.lax.scan(
        lambda state, x: one_chunk(gain, initial, state, x), start, tokens
    )
    return carry, carry.weights if anchor is None else anchor, y
