"""Linear recurrences with one decay per head and token, in the chunk-parallel form.

    S_t = a_t S_{t-1} + k_t^T v_t          y_t = q_t S_t

Linear attention (a = 1), RetNet (a constant of the head) and Mamba-2 (a function of the token) are this recurrence
with projections of their own. Inside a chunk, with a_{i<j<=t} the product of the decays between:

    y_t = a_{<=t} q_t S_0 + sum_{i<=t} a_{i<j<=t} (q_t . k_i) v_i       (Dao and Gu 2024, arXiv 2405.21060, section 6)
"""

from __future__ import annotations

from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Float

from titans_jax.baselines.scan import chunk_decays
from titans_jax.registry import registered
from titans_jax.tiles.matrices import NN, NT, TN, dot, scaled
from titans_jax.typing import Array

NORMALISER_EPSILON = 1e-6


@registered
class LinearCarry(NamedTuple):
    """State of a head, and the sum of its keys where reads are normalised."""

    state: Float[Array, "K V"]
    keys: Float[Array, "1 K"] | None


class LinearTokens(NamedTuple):
    """Tokens of a chunk; ``log_keep`` is None without decay, ``starts`` without documents (scan.py)."""

    q: Float[Array, "C K"]
    k: Float[Array, "C K"]
    v: Float[Array, "C V"]
    log_keep: Float[Array, "1 C"] | None
    starts: Float[Array, "1 C"] | None = None


def linear_step(carry: LinearCarry, x: LinearTokens) -> tuple[LinearCarry, Float[Array, "C V"]]:
    """One chunk of one head.

    Args:
        carry: before the chunk. With ``keys``, reads are divided by q_t . sum of keys (Katharopoulos et al., Eq. 18).
        x: its tokens.

    Returns:
        The carry after the chunk, and the reads.
    """
    operand = x.q.dtype
    decays = chunk_decays(x.q.shape[0], carry.state.dtype, x.log_keep, x.starts)
    scores = dot(x.q, x.k, NT, operand) * decays.within  # [C, C]
    y = dot(scores, x.v, NN, operand) + scaled(
        decays.before, dot(x.q, carry.state, NN, operand)
    )  # [C, V]
    k = scaled(decays.after, x.k)
    keys = carry.keys
    if keys is not None:
        before = jnp.sum(x.q * keys, axis=1, keepdims=True)  # [C, 1]
        total = jnp.sum(scores, axis=1, keepdims=True) + scaled(decays.before, before)
        y = y / (total + NORMALISER_EPSILON)
        keys = scaled(decays.kept, keys) + jnp.sum(k, axis=0, keepdims=True, dtype=keys.dtype)
    state = scaled(decays.kept, carry.state) + dot(k, x.v, TN, operand)
    return LinearCarry(state, keys), y.astype(operand)
