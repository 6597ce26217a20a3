"""One token at a time, for decoding: Eq. 12-15 with the gradient written by hand as rank-one matrices.

The same numbers as `sequential_scan` of one token. What differs is what a small memory's token costs: no gradient is
formed as a matrix of its own, M and S are each written in one pass, and the anchor is copied only where a chunk ends.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Bool, Float

from titans_jax.memory.dual import Carry, select
from titans_jax.memory.gates import Gates
from titans_jax.memory.networks import apply_network
from titans_jax.memory.rule import Rule, gradient_factors
from titans_jax.memory.state import MemoryState
from titans_jax.tiles.matrices import NN, dot
from titans_jax.typing import Array, PyTree


def token_step(
    rule: Rule,
    state: MemoryState,
    q: Float[Array, "B 1 H K"],
    k: Float[Array, "B 1 H K"],
    v: Float[Array, "B 1 H K"],
    gates: Gates,
    mask: Bool[Array, "B 1"] | None,
    reset: Bool[Array, "B 1"] | None,
    initial: Carry | None,
    *,
    chunk: int,
) -> tuple[Float[Array, "B 1 H K"], MemoryState]:
    """Writes one token of every sequence and reads it.

    Args:
        rule: the inner step, its network built in.
        state: before the token.
        q: query.
        k: key.
        v: value.
        gates: fields ``[B, 1, H]``.
        mask: False for a token that changes nothing.
        reset: True where a document starts, at a chunk's first token.
        initial: M and S at a document's start; needed with ``reset``.
        chunk: tokens that share one anchor.

    Returns:
        The reads and the state after the token.
    """
    weights, momentum, anchor, position = state
    if reset is not None:
        old = (weights, momentum, anchor)
        weights, momentum, anchor = _where(reset[:, 0], (*initial, initial.weights), old)

    def one_head(rule: Rule, m, s, anchor, q, k, v, gates, mask):
        q, k, v = (x.astype(m[0].dtype) for x in (q, k, v))  # [1, K]

        def current(h):
            return dot(h, m[-1], NN, h.dtype), None

        inputs, errors = gradient_factors(rule, anchor, k, v, current)
        kept = rule.forget(None if gates.log_keep is None else jnp.exp(gates.log_keep), m)
        layers = []
        for m_l, kept_l, s_l, a, g in zip(m, kept, s, inputs, errors, strict=True):
            step = -gates.theta * (a[0][:, None] * g[0][None, :])  # [d_in, d_out], Eq. 12
            if gates.log_eta is not None:
                step = jnp.exp(gates.log_eta) * s_l + step  # Eq. 10, 14
            new = (kept_l + step, s_l if gates.log_eta is None else step)  # Eq. 13
            layers.append(new if mask is None else select(mask, new, (m_l, s_l)))
        new_m, new_s = zip(*layers, strict=True)
        y = apply_network(
            rule.network, new_m if rule.read == "after" else m, rule.gain, q
        )  # Eq. 15
        return new_m, new_s, y

    token = Gates(*(None if g is None else g[:, 0] for g in gates))
    heads = jax.vmap(one_head, in_axes=(0, 0, 0, 0, 1, 1, 1, 0, None), out_axes=(0, 0, 1))
    sequences = jax.vmap(heads, in_axes=(None, 0, 0, 0, 0, 0, 0, 0, 0))
    new_weights, new_momentum, y = sequences(
        rule, weights, momentum, anchor, q, k, v, token, None if mask is None else mask[:, 0]
    )
    position = (position + 1) % chunk
    done = position == 0
    anchor = jax.lax.cond(
        jnp.any(done),
        lambda: jax.tree.map(lambda new, old: _select(done, new, old), new_weights, anchor),
        lambda: anchor,
    )
    return y, MemoryState(new_weights, new_momentum, anchor, position)


def _where(flags: Bool[Array, "B"], start: PyTree, old: PyTree) -> PyTree:
    """``start [H, ...]`` for the flagged sequences, ``old [B, H, ...]`` for the others."""
    return jax.tree.map(lambda new, leaf: _select(flags, new[None], leaf), start, old)


def _select(flags: Bool[Array, "B"], new: Array, old: Array) -> Array:
    return jnp.where(flags.reshape(-1, *(1,) * (old.ndim - 1)), new, old)
