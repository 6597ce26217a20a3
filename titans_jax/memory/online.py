"""The exact online form of the linear memory (depth 1, chunk 1): a gradient at every token's own M.

With M_{t-1} written out in the dual form, the errors e_t = k_t M_{t-1} - v_t of a tile solve a unit
lower triangular system, because the gradient of token i is 2 k_i^T e_i:

    (I + 2 strict_lower(write[t-1, i] (k_t . k_i))) e = keep_{t-1} k M_0 + carry_{t-1} k S_0 - v

after which the tile is read and written as any other. Without momentum this is the chunk form of
(Gated) DeltaNet; eta adds momentum to it. The inverse of I + L, L strictly lower triangular, is built
from the inverses of its diagonal blocks, of sizes 1, 2, 4, ...: matmuls only, no solve. (The shorter
product (I - L)(I + L^2)(I + L^4)... is of no use here: where keys repeat, powers of L grow beyond
1e20 before they vanish, and float32 keeps nothing of an inverse whose entries are near 1.)
"""

import jax
import jax.numpy as jnp
from jaxtyping import Float

from titans_jax.memory.chunk import Carry, read_tile, write_tile
from titans_jax.memory.chunked import GridTokens, each_head
from titans_jax.memory.gates import Read, decay_matrices, gate_sums, tile_gates
from titans_jax.memory.networks import MLPNetwork
from titans_jax.typing import Array


def inverse_unit_lower(strict: Float[Array, "R R"]) -> Float[Array, "R R"]:
    """(I + L)^-1 for a strictly lower triangular L.

    Of [[A, 0], [C, B]] it is [[A^-1, 0], [-B^-1 C A^-1, B^-1]]. All blocks of a size are joined at once by
    masked products of whole matrices, and what is left over at the end needs no special case.
    """
    size = strict.shape[-1]
    row = jax.lax.broadcasted_iota(jnp.int32, (size, size), 0)
    col = jax.lax.broadcasted_iota(jnp.int32, (size, size), 1)
    inverse, level = (row == col).astype(strict.dtype), 0
    while (1 << level) < size:  # shifts, because kernels run this too
        block, other = row >> level, col >> level
        below = (block == other + 1) & ((block & 1) == 1)  # C of every pair
        inverse = inverse - inverse @ jnp.where(below, strict, 0.0) @ inverse
        level += 1
    return inverse


def online_scan(
    network: MLPNetwork,
    carry: Carry,
    tokens: GridTokens,
    *,
    read: Read,
) -> tuple[Carry, Float[Array, "N tiles B R H K"]]:
    """Runs all memories with gradients at every token's own memory, tile by tile.

    Args:
        network: "mlp" of depth 1.
        carry: M and S before the first token, ``[B, H, ...]``.
        tokens: on a grid of one tile per "chunk", without resets.
        read: y_t from M_t ("after") or M_{t-1} ("before").

    Returns:
        M and S after the last token, and the reads.
    """

    @jax.checkpoint
    @each_head
    def one_tile(gain, initial, carry, x: GridTokens):
        del gain, initial  # a linear memory has no norm, and documents are not reset here
        q, k, v, sums, mask = jax.tree.map(lambda a: a[0], (x.q, x.k, x.v, x.gates, x.mask))
        before = decay_matrices(tile_gates(sums, mask), "before")
        (m,), (s,) = carry
        q, k, v = (tokens.astype(m.dtype) for tokens in (q, k, v))
        predicted = k @ m  # [R, K]
        if before.keep is not None:
            predicted = before.keep * predicted
        if before.carry is not None:
            predicted = predicted + before.carry * (k @ s)
        system = 2.0 * before.write * (k @ k.T)  # [R, R]
        error = 2.0 * (inverse_unit_lower(system) @ (predicted - v))  # gradients' right factors
        decays = before
        if read == "after":
            after = sums._replace(read_keep=sums.keep)
            decays = decay_matrices(tile_gates(after, mask), "after")
        y = read_tile(network, None, carry, q, (k,), (error,), decays)
        return write_tile(carry, (k,), (error,), decays), y[None]

    tokens = tokens._replace(gates=gate_sums(tokens.gates, "before"))
    return jax.lax.scan(lambda carry, x: one_tile(None, None, carry, x), carry, tokens)
