"""The memory by ``jax.lax.associative_scan`` within a chunk (§3.2, Eq. 16-18, parallel over tokens).

At a fixed anchor a token or a tile moves the pair (M, S) by an affine map,

    M' = keep M + carry S + dM          S' = eta S + dS,

and such maps compose associatively. For the built-in networks the tiles of a chunk are summarised
in parallel, joined by the scan, and each tile is read in the dual form. For any other network (a
pure function, gradients by ``jax.grad``) the scan runs over the tokens of a chunk and holds M_t for
each of them: O(chunk x parameters) memory, meant for small networks.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Float

from titans_jax.memory.chunk import Carry, read_tile, write_tile
from titans_jax.memory.chunked import GridTokens, each_head, select
from titans_jax.memory.gates import Read, decay_matrices, gate_sums, tile_gates
from titans_jax.memory.networks import MLPNetwork, NetworkFunction, gradient_factors, surprise
from titans_jax.typing import Array, PyTree


class AffineMap(NamedTuple):
    """(M, S) -> (keep M + carry S + shift.weights, eta S + shift.momentum); leading axis: steps."""

    keep: Array
    carry: Array
    eta: Array
    shift: Carry


def _scale(coefficient: Array, tree: PyTree) -> PyTree:
    def scaled(x):
        return coefficient.reshape(coefficient.shape + (1,) * (x.ndim - coefficient.ndim)) * x

    return jax.tree.map(scaled, tree)


def _add(*trees: PyTree) -> PyTree:
    return jax.tree.map(lambda *leaves: sum(leaves[1:], start=leaves[0]), *trees)


def compose(first: AffineMap, then: AffineMap) -> AffineMap:
    """``then`` after ``first``: the associative operation of the scan."""
    return AffineMap(
        keep=then.keep * first.keep,
        carry=then.keep * first.carry + then.carry * first.eta,
        eta=then.eta * first.eta,
        shift=Carry(
            _add(
                _scale(then.keep, first.shift.weights),
                _scale(then.carry, first.shift.momentum),
                then.shift.weights,
            ),
            _add(_scale(then.eta, first.shift.momentum), then.shift.momentum),
        ),
    )


def states_after(maps: AffineMap, start: Carry) -> Carry:
    """(M, S) after every step, from the steps' maps and the state before the first."""
    prefix = jax.lax.associative_scan(compose, maps)
    start = jax.tree.map(lambda x: x[None], start)
    return Carry(
        _add(
            _scale(prefix.keep, start.weights),
            _scale(prefix.carry, start.momentum),
            prefix.shift.weights,
        ),
        _add(_scale(prefix.eta, start.momentum), prefix.shift.momentum),
    )


def _shifted(states: Carry, start: Carry) -> Carry:
    """The states before every step, given those after every step."""
    return jax.tree.map(lambda x, x0: jnp.concatenate([x0[None], x[:-1]]), states, start)


def associative_chunk_scan(
    network: MLPNetwork | NetworkFunction,
    gain: Float[Array, "H 1 K"] | None,
    carry: Carry,
    anchor: PyTree,
    tokens: GridTokens,
    initial: Carry | None,
    *,
    read: Read,
    bound_step: bool = False,
) -> tuple[Carry, PyTree, Float[Array, "N tiles B R H K"]]:
    """Like `chunked.chunked_scan`, parallel within each chunk; any pure function as the network."""
    dense = isinstance(network, MLPNetwork)
    chunk_step = _dual_chunk if dense else _token_chunk

    @jax.checkpoint
    @each_head
    def one_chunk(gain, initial, state, x: GridTokens):
        carry, anchor = state
        if x.reset is not None:
            carry = select(x.reset, initial, carry)
            anchor = select(x.reset, initial.weights, anchor)
        carry, y = chunk_step(network, gain, anchor, carry, x, read, bound_step)
        complete = True if x.completed is None else x.completed
        return (carry, select(complete, carry.weights, anchor)), y

    if dense:
        tokens = tokens._replace(gates=gate_sums(tokens.gates, read))
    (carry, anchor), y = jax.lax.scan(
        lambda state, x: one_chunk(gain, initial, state, x), (carry, anchor), tokens
    )
    return carry, anchor, y


def _dual_chunk(network, gain, anchor, carry, x: GridTokens, read, bound_step):
    q, k, v = (tokens.astype(carry.weights[0].dtype) for tokens in (x.q, x.k, x.v))
    factors = jax.vmap(lambda k, v: gradient_factors(network, anchor, gain, k, v, bound_step))
    inputs, errors = factors(k, v)  # tuples of [tiles, R, width]
    decays = jax.vmap(lambda sums, mask: decay_matrices(tile_gates(sums, mask), read))(
        x.gates, x.mask
    )
    nothing = jax.tree.map(jnp.zeros_like, carry)
    shift = jax.vmap(lambda a, g, d: write_tile(nothing, a, g, d))(inputs, errors, decays)
    ones = jnp.ones(x.q.shape[:1], carry.weights[0].dtype)

    def coefficient(value, default):
        return default if value is None else value[:, 0, 0]

    maps = AffineMap(
        keep=coefficient(decays.end_keep, ones),
        carry=coefficient(decays.end_carry, 0.0 * ones),
        eta=coefficient(decays.end_eta, ones),
        shift=shift,
    )
    after = states_after(maps, carry)
    y = jax.vmap(lambda c, q, a, g, d: read_tile(network, gain, c, q, a, g, d))(
        _shifted(after, carry), q, inputs, errors, decays
    )
    return jax.tree.map(lambda leaf: leaf[-1], after), y


def _token_chunk(network, gain, anchor, carry, x: GridTokens, read, bound_step):
    del gain  # a user's function has its slow parameters in its closure
    q, k, v, gates, mask = jax.tree.map(
        lambda a: a.reshape(-1, *a.shape[2:]), (x.q, x.k, x.v, x.gates, x.mask)
    )

    gradient = jax.vmap(lambda k, v: surprise(network, anchor, k, v, bound_step))(k, v)
    step = _scale(-gates.theta, gradient)
    ones = jnp.ones_like(gates.theta)
    eta = 0.0 * ones if gates.log_eta is None else jnp.exp(gates.log_eta)
    maps = AffineMap(
        keep=ones if gates.log_keep is None else jnp.exp(gates.log_keep),
        carry=eta if mask is None else eta * mask,
        eta=ones if gates.log_eta is None else eta,
        shift=Carry(step, jax.tree.map(jnp.zeros_like, step) if gates.log_eta is None else step),
    )
    after = states_after(maps, carry)
    seen = after if read == "after" else _shifted(after, carry)
    y = jax.vmap(network)(seen.weights, q)
    return jax.tree.map(lambda leaf: leaf[-1], after), y.reshape(x.q.shape)
