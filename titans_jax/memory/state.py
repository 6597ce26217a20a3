"""The streaming state of a memory: everything that a later token needs of the earlier ones.

A state can be carried, sliced by batch, saved, and produced by any split of the sequence. The
gradient anchor stays that of the running chunk's start, in decoding too, so that decoding one
token at a time computes what training on the whole sequence computes.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Int

from titans_jax.registry import registered
from titans_jax.typing import Array, PyTree


@registered
class MemoryState(NamedTuple):
    """Fast weights of ``B`` sequences with ``H`` memories each.

    Attributes:
        weights: M, pytree of ``[B, H, ...]``; for the built-in networks a tuple of ``[B, H, d_in, d_out]``.
        momentum: S, same structure.
        anchor: M at the start of the running chunk, at which gradients are taken (Eq. 16).
        position: tokens already taken in the running chunk, ``[B]``, in [0, chunk).
    """

    weights: PyTree
    momentum: PyTree
    anchor: PyTree
    position: Int[Array, "B"]


def no_momentum(weights: PyTree) -> PyTree:
    """S_0 = 0, of the shapes of M_0, as zeros that the compiler does not see through.

    Where a sequence ends within its first chunk, reads are products with S_0, and XLA gives wrong numbers on CPUs where
    a product with a broadcast constant shares a fusion of the YNNPACK library with a sum: it reads memory that nothing
    wrote. jax 0.10.2 and 0.12.0.1 both do, for example for ``sum(x, -1, keepdims=True) + x @ zeros((64, 64))`` with x
    of ``[32, 64, 64]``, which comes to 1e9 and more.

    Args:
        weights: M_0, any pytree.
    """

    def zeros(x):
        ramp = jax.lax.broadcasted_iota(x.dtype, x.shape, x.ndim - 1)
        return 0 * ramp  # a float times 0 is not simplified, since it may be NaN

    return jax.tree.map(zeros, weights)


def fresh_state(weights: PyTree, batch_size: int, momentum: PyTree | None = None) -> MemoryState:
    """The state at a sequence's start: the learned M_0 for every sequence, and S_0 = 0.

    Args:
        weights: M_0, pytree of ``[H, ...]``.
        batch_size: B.
        momentum: S_0, pytree of ``[H, ...]``, where it is not zero (after persistent tokens).
    """

    def broadcast(x):
        return jnp.broadcast_to(x, (batch_size, *x.shape))

    start = jax.tree.map(broadcast, weights)
    if momentum is None:
        momentum = no_momentum(weights)
    return MemoryState(
        start, jax.tree.map(broadcast, momentum), start, jnp.zeros((batch_size,), jnp.int32)
    )


def skip_tokens(state: MemoryState, length: int, chunk: int) -> MemoryState:
    """The state after tokens that write nothing, as masked ones do: the anchor moves on with the chunks.

    Args:
        state: before the tokens.
        length: number of tokens.
        chunk: tokens that share one anchor.
    """
    end = state.position + length
    moves = end >= chunk

    def anchor(weights, old):
        return jnp.where(moves.reshape(-1, *(1,) * (old.ndim - 1)), weights, old)

    return state._replace(
        anchor=jax.tree.map(anchor, state.weights, state.anchor), position=end % chunk
    )
