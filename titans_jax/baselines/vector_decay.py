"""A linear recurrence with one decay per feature of the key, in a chunk-parallel form that nothing underflows.

    S_t = Diag(a_t) S_{t-1} + k_t^T v_t          y_t = q_t S_t        (Yang et al. 2023, arXiv 2312.06635, Eq. 3)

The decay between two tokens does not factor out of q_t . k_i, and q_t a_{<=t} . k_i / a_{<=i} divides by products that
underflow. The paper's secondary chunking is carried through here: the pairs (t, i), i < t, are those of halves of
blocks of size 2, 4, 8, ...: i in a block's left half, t in its right. Between the two lies the block's middle, up to
which k_i has decayed and from which q_t has, so that

    score[t, i] = (q_t a_{middle..t}) . (k_i a_{i+1..middle})

with no factor above one: one product of matrices per level. The sums of logarithms are products with matrices of zeros
and ones, in full precision.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Float

from titans_jax.baselines.scan import document_flags
from titans_jax.tiles.matrices import NN, NT, TN, column, dot, places
from titans_jax.typing import Array


class VectorDecayTokens(NamedTuple):
    """Tokens of a chunk; ``log_keep`` has the logarithms of the decays, float32 at least."""

    q: Float[Array, "C K"]
    k: Float[Array, "C K"]
    v: Float[Array, "C V"]
    log_keep: Float[Array, "C K"]
    starts: Float[Array, "1 C"] | None = None


def vector_decay_step(
    state: Float[Array, "K V"], x: VectorDecayTokens
) -> tuple[Float[Array, "K V"], Float[Array, "C V"]]:
    """One chunk of one head.

    Args:
        state: before the chunk.
        x: its tokens.

    Returns:
        The state after the chunk, and the reads.
    """
    operand, length = x.q.dtype, x.q.shape[0]
    row, col = places(length)

    def decay(chosen: Array) -> Array:  # exp of the sum of the chosen tokens' logarithms, [C, K]
        sums = jax.lax.dot_general(
            chosen.astype(x.log_keep.dtype),
            x.log_keep,
            (((1,), (0,)), ((), ())),
            precision=jax.lax.Precision.HIGHEST,
        )
        return jnp.exp(sums)

    diagonal = jnp.sum(x.q.astype(state.dtype) * x.k, axis=1, keepdims=True)  # [C, 1]
    scores = jnp.where(row == col, diagonal, 0.0)  # [C, C]
    level = 0
    while (1 << level) < length:
        block, other = row >> level, col >> level  # halves
        right = (block & 1) == 1
        factor = decay((block == other) & ((right & (col <= row)) | (~right & (col > row))))
        pairs = right & (other == block - 1)
        scores = scores + jnp.where(pairs, dot(x.q * factor, x.k * factor, NT, operand), 0.0)
        level += 1
    before, after = decay(col <= row), decay(col > row)  # [C, K]
    kept = jnp.exp(jnp.sum(x.log_keep, axis=0, keepdims=True))  # [1, K]
    if x.starts is not None:
        apart, first, last, no_start = document_flags(x.starts)
        scores = jnp.where(apart, 0.0, scores)
        before, after = jnp.where(first, before, 0.0), jnp.where(last, after, 0.0)
        kept = jnp.where(no_start, kept, 0.0)
    y = dot(scores, x.v, NN, operand) + dot(x.q * before, state, NN, operand)
    state = column(kept) * state + dot(x.k * after, x.v, TN, operand)
    return state, y.astype(operand)
