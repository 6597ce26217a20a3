"""The memory token by token: Eq. 12-15 as they stand, with ``jax.grad``. The oracle of every test.

Slow and obviously right. It is also how a single token is decoded.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Bool, Float, Int

from titans_jax.memory.chunk import Carry
from titans_jax.memory.gates import Gates, Read
from titans_jax.memory.networks import NetworkFunction, surprise
from titans_jax.typing import Array, PyTree


class TokenState(NamedTuple):
    """M, S and anchor of one head, and its position in the running chunk."""

    carry: Carry
    anchor: PyTree
    position: Int[Array, ""]


def sequential_scan(
    network: NetworkFunction,
    state: TokenState,
    q: Float[Array, "T K"],
    k: Float[Array, "T K"],
    v: Float[Array, "T K"],
    gates: Gates,
    mask: Bool[Array, "T"] | None,
    reset: Bool[Array, "T"] | None,
    initial: Carry | None,
    *,
    chunk: int,
    read: Read,
    bound_step: bool = False,
) -> tuple[TokenState, Float[Array, "T K"]]:
    """Runs one head over its tokens, one at a time.

    Args:
        network: M(x) as a function of fast weights and one vector.
        state: before the first token.
        q: queries; k: keys; v: values.
        gates: fields ``[T]``.
        mask: False for tokens that change nothing.
        reset: True where a document starts, at a chunk's first token.
        initial: M and S at a document's start; needed with ``reset``.
        chunk: tokens that share one anchor.
        read: y_t from M_t ("after") or M_{t-1} ("before").
        bound_step: see networks.py.

    Returns:
        The state after the last token and the reads.
    """

    def token(state: TokenState, x):
        q_t, k_t, v_t, gates_t, mask_t, reset_t = x
        (m, s), anchor, position = state
        if reset_t is not None:
            m, s, anchor = jax.tree.map(
                lambda new, old: jnp.where(reset_t, new, old),
                (*initial, initial.weights),
                (m, s, anchor),
            )
        # Eq. 12, at M_{t'}, the chunk's start (Eq. 16)
        gradient = surprise(network, anchor, k_t, v_t, bound_step)
        keep = 1.0 if gates_t.log_keep is None else jnp.exp(gates_t.log_keep)
        step = jax.tree.map(lambda u: -gates_t.theta * u, gradient)
        new_s = s
        if gates_t.log_eta is not None:
            eta = jnp.exp(gates_t.log_eta)
            step = new_s = jax.tree.map(lambda s, d: eta * s + d, s, step)  # Eq. 10, 14
        new_m = jax.tree.map(lambda m, d: keep * m + d, m, step)  # Eq. 13
        if mask_t is not None:
            new_m, new_s = jax.tree.map(
                lambda new, old: jnp.where(mask_t, new, old), (new_m, new_s), (m, s)
            )
        y = network(new_m if read == "after" else m, q_t)  # Eq. 15
        position = (position + 1) % chunk
        anchor = jax.tree.map(lambda new, old: jnp.where(position == 0, new, old), new_m, anchor)
        return TokenState(Carry(new_m, new_s), anchor, position), y

    return jax.lax.scan(token, state, (q, k, v, gates, mask, reset))
