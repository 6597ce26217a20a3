"""`tile_step`: what the memory does with one tile of tokens, in the dual form.

With the decays of gates.py, and because the gradient u_i of layer l is the rank-one matrix
a_i^l (g_i^l)^T, layer l of M_t is read at every token t exactly, without ever forming M_t:

    x_t M_t^l = keep_t x_t M_0^l + carry_t x_t S_0^l - sum_{i<=t} write[t, i] (x_t . a_i^l) g_i^l

with x the query for the first layer and the activation of the previous read for the next. The end
of the chunk is the last row of the same formula (Eq. 16, 18 with per-token gates).

With ``anchor="token"`` (rule.py) the last layer's errors are those of the memory just before each token, which is a
read of the same form with the features h for x. As g depends linearly on it, the g of a tile solve

    (I + strict_lower(2 c write_before (h h^T))) g = g^0 + 2 c (keep_before h M_0^L + carry_before h S_0^L - z^0)

Where forgetting goes to weights B, M - B stands for M in all of this, and x B is read apart.

Everything here is one head's 2-D arrays in the subset of operations that Mosaic and Triton lower
(no transposes, slices or concatenations): tiles/scan.py runs it by ``lax.scan`` or in a kernel.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Bool, Float

from titans_jax.memory.gates import Decays, Gates, decays
from titans_jax.memory.networks import output, silu
from titans_jax.memory.products import read_layer, write_layer
from titans_jax.memory.rule import Rule, gradient_factors
from titans_jax.tiles.matrices import NN, NT, column, dot, scaled
from titans_jax.typing import Array, FastWeights, PyTree


class Carry(NamedTuple):
    """Fast weights M and momentum S of one head: one matrix ``[d_in, d_out]`` per layer each."""

    weights: FastWeights
    momentum: FastWeights


class Tile(NamedTuple):
    """The tokens of one tile of one head; on the grid of a batch every leaf has axes ``[N, B]`` before, and H after R.

    Attributes:
        q, k, v: tokens.
        gates: from `gates.summed`, fields ``[1, R]``.
        moves: 1 for a token, 0 for padding; None: all are tokens.
        reset: 1 where a document starts with the tile.
        settles: 1 where the anchor becomes M after the tile; None: every tile takes M as it finds it for its anchor.
    """

    q: Float[Array, "R K"]
    k: Float[Array, "R K"]
    v: Float[Array, "R K"]
    gates: Gates
    moves: Float[Array, "1 R"] | None = None
    reset: Float[Array, "1 1"] | None = None
    settles: Float[Array, "1 1"] | None = None


#: Makes a column of a row.
Turn = Callable[[Float[Array, "1 R"]], Float[Array, "R 1"]]


def tile_step(
    consts: tuple[Rule, Carry | None],
    state: tuple[Carry, FastWeights | None],
    tile: Tile,
    *,
    turn: Turn = column,
) -> tuple[tuple[Carry, FastWeights | None], Float[Array, "R K"]]:
    """One tile of one head, with its resets and its anchor: the step that `scan_tiles` runs.

    Args:
        consts: the rule, and M and S at a document's start.
        state: M and S before the tile, and the anchor where it is not simply M.
        tile: the tile.
        turn: see `gates.decays`.

    Returns:
        The state after the tile, and the reads.
    """
    rule, initial = consts
    carry, anchor = state
    if tile.reset is not None:
        starts = tile.reset > 0.5  # [1, 1]
        carry = select(starts, initial, carry)
        anchor = None if anchor is None else select(starts, initial.weights, anchor)
    carry, y = tile_update(rule, carry.weights if anchor is None else anchor, carry, tile, turn)
    if anchor is not None:
        anchor = select(tile.settles > 0.5, carry.weights, anchor)
    return (carry, anchor), y


def select(flag: Bool[Array, "..."], new: PyTree, old: PyTree) -> PyTree:
    """``new`` where the flag is set, else ``old``, leaf by leaf.

    Args:
        flag: broadcast over the leaves.
        new: any pytree.
        old: one of the same structure.
    """
    return jax.tree.map(lambda a, b: jnp.where(flag, a, b), new, old)


def tile_update(
    rule: Rule, anchor: FastWeights, carry: Carry, tile: Tile, turn: Turn = column
) -> tuple[Carry, Float[Array, "R K"]]:
    """Writes a tile's tokens and reads it at every token.

    Args:
        rule: of one head.
        anchor: M at the start of the chunk to which the tile belongs.
        carry: M and S before the tile.
        tile: tokens and gates.
        turn: see `gates.decays`.

    Returns:
        M and S after the tile, and the reads ``[R, K]``.
    """
    reads = decays(tile.gates, tile.moves, rule.read, turn)
    carry = carry._replace(weights=_without_base(rule, carry.weights))
    current = None
    if rule.anchor == "token":
        before = reads
        if rule.read != "before":
            before = decays(tile.gates, tile.moves, "before", turn)

        def current(h):
            return before_each_token(rule, carry, h, before, tile.k.dtype)

    inputs, errors = gradient_factors(rule, anchor, tile.k, tile.v, current)
    y = read_tile(rule, carry, tile.q, inputs, errors, reads)
    carry = write_tile(carry, inputs, errors, reads)
    if rule.base is not None:
        carry = carry._replace(weights=jax.tree.map(jnp.add, carry.weights, rule.base))
    return carry, y


def _without_base(rule: Rule, weights: FastWeights) -> FastWeights:
    return weights if rule.base is None else jax.tree.map(jnp.subtract, weights, rule.base)


def before_each_token(
    rule: Rule, carry: Carry, h: Float[Array, "R F"], before: Decays, operand: jnp.dtype
) -> tuple[Float[Array, "R O"], Float[Array, "R R"]]:
    """The last layer's products with M just before each token, less the tile's writes, and how it finds those.

    Args:
        rule: of one head.
        carry: M - B and S before the tile.
        h: features of the keys.
        before: decays of reads before each token.
        operand: dtype of the products' operands.
    """
    z = scaled(before.keep, dot(h, carry.weights[-1], NN, operand))  # [R, O]
    if before.carry is not None:
        z = z + before.carry * dot(h, carry.momentum[-1], NN, operand)
    if rule.base is not None:
        z = z + dot(h, rule.base[-1], NN, operand)
    return z, before.write * dot(h, h, NT, operand)  # [R, R]


def read_tile(
    rule: Rule,
    carry: Carry,
    q: Float[Array, "R K"],
    inputs: tuple[Array, ...],
    errors: tuple[Array, ...],
    reads: Decays,
) -> Float[Array, "R K"]:
    """Reads M_t at every token of the tile, layer by layer (module docstring).

    Args:
        rule: of one head.
        carry: M - B and S before the tile.
        q: queries.
        inputs: a of every layer and token (`gradient_factors`).
        errors: g of every layer and token.
        reads: decays of the tile.
    """
    x = q
    for layer in range(rule.network.depth):
        z = read_layer(
            x,
            carry.weights[layer],
            carry.momentum[layer],
            inputs[layer],
            errors[layer],
            reads.keep,
            reads.carry,
            reads.write,
            q.dtype,
        )  # [R, d_out]
        if rule.base is not None:
            z = z + dot(x, rule.base[layer], NN, q.dtype)
        x = silu(z) if layer + 1 < rule.network.depth else z
    return output(rule.network, rule.gain, q, x)


def write_tile(
    carry: Carry, inputs: tuple[Array, ...], errors: tuple[Array, ...], reads: Decays
) -> Carry:
    """M - B and S at the end of the tile; S stays as it is without momentum.

    Args:
        carry: before it.
        inputs: a of every layer and token.
        errors: g of every layer and token.
        reads: decays of the tile.
    """
    still = reads.end_momentum is None
    layers = [
        write_layer(
            m,
            None if still else s,
            a,
            g,
            reads.end_keep,
            reads.end_carry,
            reads.end_eta,
            reads.end_write,
            reads.end_momentum,
            inputs[0].dtype,  # the keys'
        )
        for m, s, a, g in zip(carry.weights, carry.momentum, inputs, errors, strict=True)
    ]
    weights, momentum = zip(*layers, strict=True)
    return Carry(weights, carry.momentum if still else momentum)
