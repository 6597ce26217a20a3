"""The deep memory's `chunk_update` as a step of `fused_scan`, from gates that stream as rows."""

from typing import Any

import jax
import jax.numpy as jnp

from titans_jax.memory.chunk import Carry, Tile, chunk_update
from titans_jax.memory.gates import TileGates, column
from titans_jax.memory.networks import MLPNetwork


def memory_step(network):
    """A step without consts: x has q, k, v ``[R, K]`` and rows keep, eta (log sums), theta ``[1, R]``."""

    def step(consts, carry, x):
        keep, eta, theta = x["keep"], x["eta"], x["theta"]
        keep_col = column(keep)  # [R, 1]
        gates = TileGates(
            keep_row=keep,
            keep_col=keep_col,
            keep_end=_end(keep),
            read_keep_col=keep_col,
            eta_row=eta,
            eta_col=column(eta),
            eta_end=_end(eta),
            theta_row=theta,
            theta_col=column(theta),
            moves_row=None,
            moves_col=None,
        )
        return chunk_update(network, None, carry, Tile(x["q"], x["k"], x["v"], gates))

    return step


def memory_shapes(network: MLPNetwork, groups, chunks, length, head_dim, dtype=jnp.bfloat16):
    """Shapes of the carry and of xs for `memory_step`."""
    rows = jax.ShapeDtypeStruct((groups, chunks, 1, length), jnp.float32)
    tokens = jax.ShapeDtypeStruct((groups, chunks, length, head_dim), dtype)
    weights: Any = tuple(
        jax.ShapeDtypeStruct((groups, *shape), jnp.float32) for shape in network.shapes(head_dim)
    )
    names = {"q": tokens, "k": tokens, "v": tokens, "keep": rows, "eta": rows, "theta": rows}
    return Carry(weights, weights), names


def memory_inputs(network: MLPNetwork, groups, chunks, length, head_dim, dtype=jnp.float32):
    """Random carry and xs of the shapes above, with gates inside (0, 1)."""
    carry, xs = memory_shapes(network, groups, chunks, length, head_dim, dtype)
    keys = iter(jax.random.split(jax.random.key(0), 20))

    def draw(shape, scale):
        return (scale * jax.random.normal(next(keys), shape.shape)).astype(shape.dtype)

    carry = jax.tree.map(lambda s: draw(s, 0.1), carry)
    for name in ("q", "k", "v"):
        xs[name] = draw(xs[name], head_dim**-0.5)
    for name in ("keep", "eta"):
        gate = jax.nn.sigmoid(draw(xs[name], 1.0) + 2.0)
        xs[name] = jnp.cumsum(jnp.log(gate), axis=-1, dtype=jnp.float32)
    xs["theta"] = 0.5 / length * jax.nn.sigmoid(draw(xs["theta"], 1.0))
    return carry, xs


def _end(row):
    """The last entry of a row, ``[1, 1]``, by a masked sum: the common subset has no slices."""
    lane = jax.lax.broadcasted_iota(jnp.int32, row.shape, 1)  # [1, R]
    return jnp.sum(jnp.where(lane == row.shape[1] - 1, row, 0.0), axis=1, keepdims=True)
