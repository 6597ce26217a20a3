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

import jax.numpy as jnp
from jaxtyping import Float

from titans_jax.memory.gates import Decays, Read, TileGates, decay_matrices
from titans_jax.memory.networks import MLPNetwork, gradient_factors, output, silu
from titans_jax.memory.products import read_layer, write_layer
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

    def widened(self, dtype: jnp.dtype) -> "Tile":
        """The tile with its tokens in ``dtype``, in which products then take their operands."""
        return Tile(self.q.astype(dtype), self.k.astype(dtype), self.v.astype(dtype), self.gates)


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
        z = read_layer(
            x,
            carry.weights[layer],
            carry.momentum[layer],
            inputs[layer],
            errors[layer],
            decays.keep,
            decays.carry,
            decays.write,
            q.dtype,
        )  # [R, d_out]
        x = silu(z) if layer + 1 < network.depth else z
    return output(network, gain, q, x)


def write_tile(
    carry: Carry, inputs: tuple[Array, ...], errors: tuple[Array, ...], decays: Decays
) -> Carry:
    """M and S at the end of the tile."""
    layers = [
        write_layer(
            m,
            s,
            a,
            g,
            decays.end_keep,
            decays.end_carry,
            decays.end_eta,
            decays.end_write,
            decays.end_momentum,
            inputs[0].dtype,  # the keys'
        )
        for m, s, a, g in zip(carry.weights, carry.momentum, inputs, errors, strict=True)
    ]
    return Carry(tuple(new for new, _ in layers), tuple(new for _, new in layers))
