"""The memory token by token: Eq. 12-15 as they stand, with ``jax.grad``. The oracle of every test.

Slow and obviously right. A single token of a network that is not built in is decoded by it too.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Bool, Float

from titans_jax.memory.dual import Carry, select
from titans_jax.memory.gates import Gates
from titans_jax.memory.rule import Rule, surprise
from titans_jax.memory.state import MemoryState
from titans_jax.typing import Array, Heads, TokenFlags


def sequential_scan(
    rule: Rule,
    state: MemoryState,
    q: Heads,
    k: Heads,
    v: Heads,
    gates: Gates,
    mask: TokenFlags | None,
    reset: TokenFlags | None,
    initial: Carry | None,
    *,
    chunk: int,
) -> tuple[Heads, MemoryState]:
    """Runs every head of every sequence over its tokens, one at a time.

    Args:
        rule: the inner step.
        state: before the first token.
        q: queries.
        k: keys.
        v: values.
        gates: fields ``[B, T, H]``.
        mask: False for tokens that change nothing.
        reset: True where a document starts, at a chunk's first token.
        initial: M and S at a document's start; needed with ``reset``.
        chunk: tokens that share one anchor.

    Returns:
        The reads and the state after the last token.
    """

    def one_head(rule, initial, state, tokens, mask, reset):
        def token(state, x):
            return token_by_token(rule, initial, state, *x, chunk=chunk)

        return jax.lax.scan(token, state, (*tokens, mask, reset))

    by_head = MemoryState(0, 0, 0, None)
    heads = jax.vmap(one_head, in_axes=(0, 0, by_head, 1, None, None), out_axes=(by_head, 1))
    sequences = jax.vmap(heads, in_axes=(None, None, 0, 0, 0, 0))
    state, y = sequences(rule, initial, state, (q, k, v, gates), mask, reset)
    return y, state


def token_by_token(
    rule: Rule,
    initial: Carry | None,
    state: MemoryState,
    q: Float[Array, "K"],
    k: Float[Array, "K"],
    v: Float[Array, "K"],
    gates: Gates,
    mask: Bool[Array, ""] | None,
    reset: Bool[Array, ""] | None,
    *,
    chunk: int,
) -> tuple[MemoryState, Float[Array, "K"]]:
    """One token of one head.

    Args:
        rule: of the head.
        initial: M and S at a document's start; needed with ``reset``.
        state: of the head, before the token.
        q: query.
        k: key.
        v: value.
        gates: numbers.
        mask: False: the token changes nothing.
        reset: True: a document starts with the token.
        chunk: tokens that share one anchor.
    """
    m, s, anchor, position = state
    if reset is not None:
        m, s, anchor = select(reset, (*initial, initial.weights), (m, s, anchor))
    # Eq. 12, at M_{t'}, the chunk's start (Eq. 16)
    _, gradient = surprise(rule, anchor, m, k, v)
    step = jax.tree.map(lambda u: -gates.theta * u, gradient)
    new_s = s
    if gates.log_eta is not None:
        eta = jnp.exp(gates.log_eta)
        step = new_s = jax.tree.map(lambda s, d: eta * s + d, s, step)  # Eq. 10, 14
    kept = rule.forget(None if gates.log_keep is None else jnp.exp(gates.log_keep), m)
    new_m = jax.tree.map(jnp.add, kept, step)  # Eq. 13
    if mask is not None:
        new_m, new_s = select(mask, (new_m, new_s), (m, s))
    y = rule.function()(new_m if rule.read == "after" else m, q)  # Eq. 15
    position = (position + 1) % chunk
    anchor = select(position == 0, new_m, anchor)
    return MemoryState(new_m, new_s, anchor, position), y
