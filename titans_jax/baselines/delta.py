"""The delta rule, with or without a decay per head and token, in the chunk-parallel form.

    S_t = a_t (I - beta_t k_t^T k_t) S_{t-1} + beta_t k_t^T v_t      y_t = q_t S_t

DeltaNet (a = 1): Schlag et al. 2021 (arXiv 2102.11174, section 4.2), its parallel form Yang et al. 2024 (arXiv
2406.06484); Gated DeltaNet: Yang et al. 2024 (arXiv 2412.06464, Eq. 10). Written as S_t = a_t S_{t-1} + k_t^T u_t, the
corrections u of a chunk solve a unit lower triangular system (the WY or UT form):

    (I + L) u = beta (v - a_{<=t} k S_0)        L[t, i] = beta_t a_{i<j<=t} (k_t . k_i)  for i < t
"""

from __future__ import annotations

from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Float

from titans_jax.baselines.scan import chunk_decays
from titans_jax.tiles.matrices import NN, NT, TN, column, dot, places, scaled, solve_unit_lower
from titans_jax.typing import Array


class DeltaTokens(NamedTuple):
    """Tokens of a chunk; ``log_keep`` is None without decay."""

    q: Float[Array, "C K"]
    k: Float[Array, "C K"]
    v: Float[Array, "C V"]
    beta: Float[Array, "1 C"]
    log_keep: Float[Array, "1 C"] | None
    starts: Float[Array, "1 C"] | None = None


def delta_step(
    state: Float[Array, "K V"], x: DeltaTokens
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
    decays = chunk_decays(length, state.dtype, x.log_keep, x.starts)
    beta = column(x.beta)  # [C, 1]
    strict = jnp.where(row > col, decays.within, 0.0)
    system = beta * strict * dot(x.k, x.k, NT, operand)  # [C, C]
    predicted = scaled(decays.before, dot(x.k, state, NN, operand))  # [C, V]
    written = solve_unit_lower(system, beta * (x.v - predicted), operand)  # u, [C, V]
    scores = dot(x.q, x.k, NT, operand) * decays.within
    y = dot(scores, written, NN, operand) + scaled(decays.before, dot(x.q, state, NN, operand))
    state = scaled(decays.kept, state) + dot(scaled(decays.after, x.k), written, TN, operand)
    return state, y.astype(operand)
