"""The default execution: ``lax.scan`` over chunks, each read and written in the dual form.

Between chunks the dependence is nonlinear (the anchor), so chunks are a scan. With tile < chunk
an inner scan walks the tiles of a chunk at a fixed anchor; the result does not depend on the tile.
The carry is what `fused_scan` keeps on the chip in a kernel. Its step is rematerialised in the
backward pass: what one chunk saves would be an order of magnitude more than the carry.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Bool, Float

from titans_jax.memory.chunk import Carry, Tile, tile_update
from titans_jax.memory.gates import Gates, Read, tile_gates
from titans_jax.memory.networks import MLPNetwork
from titans_jax.typing import Array, FastWeights, PyTree


class GridTokens(NamedTuple):
    """One head's tokens on the chunk grid (grid.py); None where there is nothing to say.

    Attributes:
        q, k, v: ``[N, tiles, R, K]``.
        gates: fields ``[N, tiles, R]``, masked already.
        mask: ``[N, tiles, R]``.
        reset: ``[N]``: a document starts with the chunk.
        completed: ``[N]``: the chunk is full when the call ends. None: all are, and the call
            starts at a chunk's start, so that the anchor is M at the start of every chunk.
    """

    q: Float[Array, "N tiles R K"]
    k: Float[Array, "N tiles R K"]
    v: Float[Array, "N tiles R K"]
    gates: Gates
    mask: Bool[Array, "N tiles R"] | None
    reset: Bool[Array, "N"] | None
    completed: Bool[Array, "N"] | None


def select(flag: Bool[Array, ""], new: PyTree, old: PyTree) -> PyTree:
    """``new`` where the flag is set, else ``old``, leaf by leaf."""
    return jax.tree.map(lambda a, b: jnp.where(flag, a, b), new, old)


def chunked_scan(
    network: MLPNetwork,
    gain: Float[Array, "1 K"] | None,
    carry: Carry,
    anchor: FastWeights,
    tokens: GridTokens,
    initial: Carry | None,
    *,
    read: Read,
    bound_step: bool = False,
) -> tuple[Carry, FastWeights, Float[Array, "N tiles R K"]]:
    """Runs one head over the chunks of its grid.

    Args:
        network: memory network.
        gain: its norm's gain, for "residual".
        carry: M and S before the first token.
        anchor: M at the start of the running chunk.
        tokens: on the grid.
        initial: M and S at a document's start; needed with ``tokens.reset``.
        read: y_t from M_t ("after") or M_{t-1} ("before").
        bound_step: see networks.py.

    Returns:
        M and S after the last token, the anchor then, and the reads.
    """

    @jax.checkpoint
    def one_tile(anchor, carry, x):
        q, k, v, gates, mask = x
        tile = Tile(q, k, v, tile_gates(gates, mask, read))
        return tile_update(network, gain, anchor, carry, tile, read, bound_step)

    def one_chunk(state, x: GridTokens):
        carry, anchor = state
        if x.reset is not None:
            carry = select(x.reset, initial, carry)
            anchor = None if anchor is None else select(x.reset, initial.weights, anchor)
        at = carry.weights if anchor is None else anchor
        tiles = (x.q, x.k, x.v, x.gates, x.mask)
        if x.q.shape[0] == 1:
            carry, y = one_tile(at, carry, jax.tree.map(lambda a: a[0], tiles))
            y = y[None]
        else:
            carry, y = jax.lax.scan(lambda c, t: one_tile(at, c, t), carry, tiles)
        if anchor is not None:
            anchor = select(x.completed, carry.weights, anchor)
        return (carry, anchor), y

    start = (carry, None if tokens.completed is None else anchor)
    (carry, anchor), y = jax.lax.scan(one_chunk, start, tokens)
    return carry, carry.weights if anchor is None else anchor, y
