"""What the memory does at each token, as a few numbers: how surprised it is, its gates, how large it grows.

A scan of its own, token by token, beside the one that computes the outputs. So it works with every execution and
any network, changes nothing of what they compute, and holds one state per head, never one per token. It is as slow
as `sequential`: for looking into a memory, not for training.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from titans_jax.memory.chunk import Carry
from titans_jax.memory.gates import Gates
from titans_jax.memory.networks import (
    MLPNetwork,
    NetworkFunction,
    network_function,
    surprise,
)
from titans_jax.memory.sequential import TokenState, sequential_scan
from titans_jax.memory.state import MemoryState
from titans_jax.registry import registered
from titans_jax.typing import Array, Float, Heads, PerHead, PyTree, TokenFlags


@registered
class Diagnostics(NamedTuple):
    """One number per token and head of each, ``[B, T, H]``.

    A token that is masked, or read with the memory frozen, has its loss, gradient and gates as if it
    were to be written; the norms show that it is not.

    Attributes:
        loss: ||M(k_t) - v_t||^2 at the anchor, the memory of the chunk's start (Eq. 12).
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
    network: MLPNetwork | NetworkFunction,
    state: MemoryState,
    k: Heads,
    v: Heads,
    gates: Gates,
    *,
    chunk: int,
    gain: Float[Array, "H K"] | None = None,
    mask: TokenFlags | None = None,
    reset: TokenFlags | None = None,
    initial: Carry | None = None,
    bound_step: bool = False,
) -> Diagnostics:
    """The diagnostics of what `memory_scan` does with the same arguments, which it has checked.

    Args:
        network: the memory network.
        state: the memories before the first token.
        k: keys; v: values.
        gates: fields ``[B, T, H]``, not masked.
        chunk: tokens that share one gradient anchor.
        gain: gain of the "residual" network's norm.
        mask: False for tokens that are not written.
        reset: True where a document starts.
        initial: M and S at a document's start; needed with ``reset``.
        bound_step: as for `memory_scan`.
    """
    bound_step = bound_step and not (isinstance(network, MLPNetwork) and network.linear)

    def one_head(gain, state: TokenState, k, v, gates, mask, reset, initial):
        function = network_function(network, gain)

        def token(state: TokenState, x):
            k_t, v_t, gates_t, mask_t, reset_t = x
            if reset_t is not None:
                carry, anchor = jax.tree.map(
                    lambda new, old: jnp.where(reset_t, new, old),
                    (initial, initial.weights),
                    (state.carry, state.anchor),
                )
                state = TokenState(carry, anchor, state.position)
            loss = jnp.sum((function(state.anchor, k_t) - v_t) ** 2)
            gradient = surprise(function, state.anchor, k_t, v_t, bound_step)
            one = jax.tree.map(lambda leaf: leaf[None], (k_t, k_t, v_t, gates_t, mask_t))
            after, _ = sequential_scan(
                function, state, *one, None, None, chunk=chunk, read="after", bound_step=bound_step
            )
            norms = (_norm(gradient), _norm(after.carry.weights), _norm(after.carry.momentum))
            return after, (loss, *norms)

        return jax.lax.scan(token, state, (k, v, gates, mask, reset))[1]

    heads = jax.vmap(
        one_head, in_axes=(0, TokenState(0, 0, None), 1, 1, 1, None, None, 0), out_axes=1
    )
    batched = jax.vmap(heads, in_axes=(None, 0, 0, 0, 0, 0, 0, None))
    gain = None if gain is None else gain[:, None, :]
    start = TokenState(Carry(state.weights, state.momentum), state.anchor, state.position)
    loss, gradient, weights, momentum = batched(gain, start, k, v, gates, mask, reset, initial)
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
