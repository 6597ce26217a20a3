"""The memory by ``jax.lax.associative_scan`` within a chunk (§3.2, Eq. 16-18, parallel over tokens).

At a fixed anchor a token or a tile moves the pair (M, S) by an affine map,

    M' = keep M + carry S + dM          S' = eta S + dS,

and such maps compose associatively. For the built-in networks the tiles of a chunk are summarised
in parallel, joined by the scan, and each tile is read in the dual form. With ``anchor="token"`` the errors of a whole
chunk solve one triangular system before that, since each depends on the chunk's earlier ones. For any other network (a
pure function, gradients by ``jax.grad``) the scan runs over the tokens of a chunk and holds M_t for
each of them: O(chunk x parameters) memory, meant for small networks.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Float

from titans_jax.memory.dual import (
    Carry,
    Tile,
    before_each_token,
    read_tile,
    select,
    write_tile,
)
from titans_jax.memory.gates import Gates, decays
from titans_jax.memory.rule import Rule, gradient_factors, surprise
from titans_jax.typing import Array, PyTree


class AffineMap(NamedTuple):
    """(M, S) -> (keep M + carry S + shift.weights, eta S + shift.momentum); leading axis: steps.

    Where forgetting goes to weights B, M - B stands for M.
    """

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
    """``then`` after ``first``: the associative operation of the scan.

    Args:
        first: the earlier map.
        then: the later one.
    """
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
    """(M, S) after every step, from the steps' maps and the state before the first.

    Args:
        maps: one map a step, leading axis: steps.
        start: (M, S) before the first step.
    """
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


def associative_tiles(
    consts: tuple[Rule, Carry | None], state: tuple[Carry, PyTree], tokens: Tile, tiles: int
) -> tuple[tuple[Carry, PyTree], Float[Array, "N B R H K"]]:
    """`tiles.scan.scan_tiles` of `dual.tile_step`, parallel within each chunk; any pure function as the network.

    Args:
        consts: the rule, and M and S at a document's start, ``[H, ...]``.
        state: M and S before the first tile, and the anchor where it is not simply M, ``[B, H, ...]``.
        tokens: all tiles, leaves ``[N, B, R, H, ...]``; gates of a function as the network not summed.
        tiles: of a chunk.
    """
    dense = consts[0].dense

    @jax.checkpoint
    def one_chunk(consts, state, x: Tile):
        rule, initial = consts
        carry, anchor = state
        if x.reset is not None:
            carry = select(x.reset[0, 0] > 0.5, initial, carry)
            if anchor is not None:
                anchor = select(x.reset[0, 0] > 0.5, initial.weights, anchor)
        at = carry.weights if anchor is None else anchor
        base = rule.base
        if base is not None:
            carry = carry._replace(weights=jax.tree.map(jnp.subtract, carry.weights, base))
        carry, y = (_dual_chunk if dense else _token_chunk)(rule, at, carry, x)
        if base is not None:
            carry = carry._replace(weights=jax.tree.map(jnp.add, carry.weights, base))
        if anchor is not None:
            anchor = select(x.settles[-1, 0] > 0.5, carry.weights, anchor)
        return (carry, anchor), y

    heads = jax.vmap(one_chunk, in_axes=(0, 0, 2), out_axes=(0, 2))
    sequences = jax.vmap(heads, in_axes=(None, 0, 1), out_axes=(0, 1))
    chunks = jax.tree.map(lambda x: x.reshape(-1, tiles, *x.shape[1:]), tokens)
    state, y = jax.lax.scan(lambda state, x: sequences(consts, state, x), state, chunks)
    return state, y.reshape(-1, *y.shape[2:])


def _dual_chunk(rule: Rule, anchor, carry, x: Tile):
    q, k, v = (tokens.astype(carry.weights[0].dtype) for tokens in (x.q, x.k, x.v))
    if rule.anchor == "token":
        inputs, errors = _factors_of_chunk(rule, anchor, carry, x, k, v)
    else:
        inputs, errors = jax.vmap(lambda k, v: gradient_factors(rule, anchor, k, v))(k, v)
    rows = jax.tree.map(lambda a: a[:, None, :], (x.gates, x.moves))  # [tiles, 1, R]
    reads = jax.vmap(lambda row: decays(*row, rule.read, jnp.transpose))(rows)
    nothing = jax.tree.map(jnp.zeros_like, carry)
    shift = jax.vmap(lambda a, g, d: write_tile(nothing, a, g, d))(inputs, errors, reads)
    ones = jnp.ones(x.q.shape[:1], carry.weights[0].dtype)

    def coefficient(value, default):
        return default if value is None else value[:, 0, 0]

    maps = AffineMap(
        keep=coefficient(reads.end_keep, ones),
        carry=coefficient(reads.end_carry, 0.0 * ones),
        eta=coefficient(reads.end_eta, ones),
        shift=shift,
    )
    after = states_after(maps, carry)
    y = jax.vmap(lambda c, q, a, g, d: read_tile(rule, c, q, a, g, d))(
        _shifted(after, carry), q, inputs, errors, reads
    )
    return jax.tree.map(lambda leaf: leaf[-1], after), y


def _factors_of_chunk(rule: Rule, anchor, carry, x: Tile, k, v):
    """`gradient_factors` of a chunk's tiles, whose last layer's errors depend on each other, as if of one tile."""

    def joined(a):
        return None if a is None else a.reshape(1, -1)

    def joined_sums(sums):  # of each tile, [tiles, R]
        if sums is None:
            return None
        before = jnp.cumsum(sums[:-1, -1:], axis=0)
        return joined(sums.at[1:].add(before))

    log_keep, log_eta = joined_sums(x.gates.log_keep), joined_sums(x.gates.log_eta)
    gates = Gates(log_keep, log_eta, joined(x.gates.theta))
    before = decays(gates, joined(x.moves), "before", jnp.transpose)
    flat = [tokens.reshape(-1, tokens.shape[-1]) for tokens in (k, v)]
    factors = gradient_factors(
        rule, anchor, *flat, lambda h: before_each_token(rule, carry, h, before, k.dtype)
    )
    return jax.tree.map(lambda a: a.reshape(*k.shape[:2], -1), factors)


def _token_chunk(rule: Rule, anchor, carry, x: Tile):
    q, k, v, gates, moves = jax.tree.map(
        lambda a: a.reshape(-1, *a.shape[2:]), (x.q, x.k, x.v, x.gates, x.moves)
    )
    gradient = jax.vmap(lambda k, v: surprise(rule, anchor, anchor, k, v)[1])(k, v)
    step = _scale(-gates.theta, gradient)
    ones = jnp.ones_like(gates.theta)
    eta = 0.0 * ones if gates.log_eta is None else jnp.exp(gates.log_eta)
    maps = AffineMap(
        keep=ones if gates.log_keep is None else jnp.exp(gates.log_keep),
        carry=eta if moves is None else eta * moves,
        eta=ones if gates.log_eta is None else eta,
        shift=Carry(step, jax.tree.map(jnp.zeros_like, step) if gates.log_eta is None else step),
    )
    after = states_after(maps, carry)
    seen = (after if rule.read == "after" else _shifted(after, carry)).weights
    if rule.base is not None:
        seen = jax.tree.map(jnp.add, seen, rule.base)
    y = jax.vmap(rule.network)(seen, q)
    return jax.tree.map(lambda leaf: leaf[-1], after), y.reshape(x.q.shape)
