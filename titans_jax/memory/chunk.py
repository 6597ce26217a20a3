"""`tile_update` and `chunk_update`: what the memory does with one chunk of tokens, in the dual form.

With the decays of gates.py, and because the gradient u_i of layer l is the rank-one matrix
a_i^l (g_i^l)^T, layer l of M_t is read at every token t exactly, without ever forming M_t:

    x_t M_t^l = keep_t x_t M_0^l + carry_t x_t S_0^l - sum_{i<=t} write[t, i] (x_t . a_i^l) g_i^l

with x the query for the first layer and the activation of the previous read for the next. The end
of the chunk is the last row of the same formula (Eq. 16, 18 with per-token gates).

Everything here is one head's 2-D arrays in the subset of operations that Mosaic and Triton lower
(no transposes, slices or concatenations): other executions ``vmap`` it, kernels run it as it is.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Float

from titans_jax.memory.gates import Decays, Read, TileGates, decay_matrices
from titans_jax.memory.networks import MLPNetwork, gradient_factors, output
from titans_jax.typing import Array, FastWeights


class Carry(NamedTuple):
    """Fast weights M and momentum S of one head: one matrix ``[d_in, d_out]`` per layer each."""

    weights: FastWeights
    momentum: FastWeights


class Tile(NamedTuple):
    """The tokens of one tile of one head."""

    q: Float[Array, "R K"]
    k: Float[Array, "R K"]
    v: Float[Array, "R K"]
    gates: TileGates


def tile_update(
    network: MLPNetwork,
    gain: Float[Array, "1 K"] | None,
    anchor: FastWeights,
    carry: Carry,
    tile: Tile,
    read: Read = "after",
    bound_step: bool = False,
) -> tuple[Carry, Float[Array, "R K"]]:
    """Writes a tile's tokens with gradients at ``anchor`` and reads it at every token.

    Args:
        network: the memory network.
        gain: its norm's gain, for "residual".
        anchor: M at the start of the chunk to which the tile belongs.
        carry: M and S before the tile.
        tile: tokens and gates.
        read: y_t from M_t ("after") or from M_{t-1} ("before").
        bound_step: see networks.py.

    Returns:
        M and S after the tile, and the reads ``[R, K]``.
    """
    inputs, errors = gradient_factors(network, anchor, gain, tile.k, tile.v, bound_step)
    decays = decay_matrices(tile.gates, read)
    y = read_tile(network, gain, carry, tile.q, inputs, errors, decays)
    return write_tile(carry, inputs, errors, decays), y


def chunk_update(
    network: MLPNetwork,
    gain: Float[Array, "1 K"] | None,
    carry: Carry,
    chunk: Tile,
    read: Read = "after",
    bound_step: bool = False,
) -> tuple[Carry, Float[Array, "C K"]]:
    """`tile_update` of a whole chunk: its gradients are taken at the memory it starts with."""
    return tile_update(network, gain, carry.weights, carry, chunk, read, bound_step)


def read_tile(
    network: MLPNetwork,
    gain: Float[Array, "1 K"] | None,
    carry: Carry,
    q: Float[Array, "R K"],
    inputs: tuple[Array, ...],
    errors: tuple[Array, ...],
    decays: Decays,
) -> Float[Array, "R K"]:
    """Reads M_t at every token of the tile, layer by layer (module docstring)."""
    x = q
    for layer in range(network.depth):
        weights, momentum = carry.weights[layer], carry.momentum[layer]
        dtype = weights.dtype
        scores = jax.lax.dot_general(
            x, inputs[layer], (((1,), (1,)), ((), ())), preferred_element_type=dtype
        )  # [R, R]
        # The decays scale x rather than the product: backward then needs no product kept or redone.
        z = jnp.dot(_scaled(decays.keep, x), weights, preferred_element_type=dtype)  # [R, d_out]
        if decays.carry is not None:
            z = z + jnp.dot(decays.carry * x, momentum, preferred_element_type=dtype)
        z = z - jnp.dot(scores * decays.write, errors[layer], preferred_element_type=dtype)
        x = jax.nn.silu(z) if layer + 1 < network.depth else z
    return output(network, gain, q, x)


def write_tile(
    carry: Carry, inputs: tuple[Array, ...], errors: tuple[Array, ...], decays: Decays
) -> Carry:
    """M and S at the end of the tile."""
    weights, momentum = [], []
    for m, s, a, g in zip(carry.weights, carry.momentum, inputs, errors, strict=True):
        new_m = m if decays.end_keep is None else decays.end_keep * m
        if decays.end_carry is not None:
            new_m = new_m + decays.end_carry * s
        weights.append(new_m - outer_sum(decays.end_write * a, g))
        if decays.end_momentum is None:
            momentum.append(s)
        else:
            momentum.append(decays.end_eta * s - outer_sum(decays.end_momentum * a, g))
    return Carry(tuple(weights), tuple(momentum))


def _scaled(factor: Float[Array, "R 1"] | None, x: Float[Array, "R I"]) -> Float[Array, "R I"]:
    return x if factor is None else factor * x


def outer_sum(a: Float[Array, "R I"], g: Float[Array, "R O"]) -> Float[Array, "I O"]:
    """a.T @ g without forming the transpose: the sum over tokens of their rank-one gradients."""
    return jax.lax.dot_general(a, g, (((0,), (0,)), ((), ())), preferred_element_type=g.dtype)
