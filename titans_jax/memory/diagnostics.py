"""What the memory does at each token, as a few numbers: how surprised it is, its gates, how large it grows.

A scan of its own, token by token, beside the one that computes the outputs. So it works with every execution and
any network, changes nothing of what they compute, and holds one state per head, never one per token. It is as slow
as `sequential`: for looking into a memory, not for training.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from titans_jax.memory.dual import Carry, select
from titans_jax.memory.executions.sequential import token_by_token
from titans_jax.memory.gates import Gates
from titans_jax.memory.rule import Rule, surprise
from titans_jax.memory.state import MemoryState
from titans_jax.registry import registered
from titans_jax.typing import Array, Heads, PerHead, PyTree, TokenFlags


@registered
class Diagnostics(NamedTuple):
    """One number per token and head of each, ``[B, T, H]``.

    A token that is masked, or read with the memory frozen, has its loss, gradient and gates as if it
    were to be written; the norms show that it is not.

    Attributes:
        loss: ||M(k_t) - v_t||^2 for which the token is written (Eq. 12): at the memory of the chunk's start, or with
            ``anchor="token"`` with its last layer just before the token.
        gradient_norm: norm of u_t, its gradient as it is written, bounded where the step is.
        alpha: share of the memory that is forgotten; 0 without forgetting.
        eta: share of the momentum that is kept; 0 without momentum.
        theta: step size.
        weights_norm: norm of M_t, after the token.
        momentum_norm: norm of S_t, after the token; S takes no part where there is no momentum.
    """

    loss: PerHead
    gradient_norm: PerHead
    alpha: PerHead
    eta: PerHead
    theta: PerHead
    weights_norm: PerHead
    momentum_norm: PerHead


def memory_diagnostics(
    rule: Rule,
    state: MemoryState,
    k: Heads,
    v: Heads,
    gates: Gates,
    *,
    chunk: int,
    mask: TokenFlags | None = None,
    reset: TokenFlags | None = None,
    initial: Carry | None = None,
) -> Diagnostics:
    """The diagnostics of what `memory_scan` does with the same arguments, which it has checked.

    Args:
        rule: the inner step.
        state: the memories before the first token.
        k: keys.
        v: values.
        gates: fields ``[B, T, H]``, not masked.
        chunk: tokens that share one gradient anchor.
        mask: False for tokens that are not written.
        reset: True where a document starts.
        initial: M and S at a document's start; needed with ``reset``.
    """

    def one_head(rule, initial, state, tokens, mask, reset):
        def token(state: MemoryState, x):
            k_t, v_t, gates_t, mask_t, reset_t = x
            if reset_t is not None:
                old = (state.weights, state.momentum, state.anchor)
                new = select(reset_t, (*initial, initial.weights), old)
                state = MemoryState(*new, state.position)
            loss, gradient = surprise(rule, state.anchor, state.weights, k_t, v_t)
            after, _ = token_by_token(
                rule, None, state, k_t, k_t, v_t, gates_t, mask_t, None, chunk=chunk
            )
            norms = (_norm(gradient), _norm(after.weights), _norm(after.momentum))
            return after, (loss, *norms)

        return jax.lax.scan(token, state, (*tokens, mask, reset))[1]

    by_head = MemoryState(0, 0, 0, None)
    heads = jax.vmap(one_head, in_axes=(0, 0, by_head, 1, None, None), out_axes=1)
    sequences = jax.vmap(heads, in_axes=(None, None, 0, 0, 0, 0))
    loss, gradient, weights, momentum = sequences(rule, initial, state, (k, v, gates), mask, reset)
    zero = jnp.zeros_like(gates.theta)
    return Diagnostics(
        loss=loss,
        gradient_norm=gradient,
        alpha=zero if gates.log_keep is None else -jnp.expm1(gates.log_keep),
        eta=zero if gates.log_eta is None else jnp.exp(gates.log_eta),
        theta=gates.theta,
        weights_norm=weights,
        momentum_norm=momentum,
    )


def _norm(tree: PyTree) -> Array:
    return jnp.sqrt(sum(jnp.sum(leaf * leaf) for leaf in jax.tree.leaves(tree)))
