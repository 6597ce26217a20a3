"""The memory's own step of a kernel, `titans_jax.memory.fused.fused_step`, with its arguments."""

import functools

import jax
import jax.numpy as jnp

from titans_jax.memory.chunk import Carry
from titans_jax.memory.fused import FusedCarry, FusedConstants, FusedTile, fused_step
from titans_jax.memory.networks import MLPNetwork


def memory_step(network: MLPNetwork):
    """The step of a memory that reads after its write, as in the presets."""
    return functools.partial(fused_step, network, "after", not network.linear)


def memory_shapes(
    network: MLPNetwork, groups, chunks, length, head_dim, dtype=jnp.bfloat16, flags=False
):
    """Shapes of consts, carry and xs for `memory_step`.

    Args:
        network: the memory network.
        groups, chunks: G and N.
        length: tokens of a chunk.
        head_dim: features.
        dtype: of the tokens.
        flags: with masks, resets, and an anchor of its own.
    """

    def array(*shape, dtype=jnp.float32):
        return jax.ShapeDtypeStruct(shape, dtype)

    tokens = array(groups, chunks, length, head_dim, dtype=dtype)
    row, flag = array(groups, chunks, 1, length), array(groups, chunks, 1, 1)
    weights, start = (
        tuple(array(g, *shape) for shape in network.shapes(head_dim)) for g in (groups, 1)
    )
    tile = FusedTile(tokens, tokens, tokens, row, None, row, row, None, None, None)
    if not flags:
        return FusedConstants(None, None), FusedCarry(Carry(weights, weights), None), tile
    return (
        FusedConstants(None, Carry(start, start)),
        FusedCarry(Carry(weights, weights), weights),
        tile._replace(moves=row, reset=flag, settles=flag),
    )


def memory_inputs(network: MLPNetwork, groups, chunks, length, head_dim, dtype=jnp.float32):
    """Random arguments of the shapes above, with gates inside (0, 1) and documents that start."""
    shapes = memory_shapes(network, groups, chunks, length, head_dim, dtype, flags=True)
    leaves, structure = jax.tree.flatten(shapes)
    keys = jax.random.split(jax.random.key(0), len(leaves))

    def draw(key, shape):
        return (0.3 * jax.random.normal(key, shape.shape, jnp.float32)).astype(shape.dtype)

    consts, carry, tile = jax.tree.unflatten(structure, map(draw, keys, leaves))

    def sums(x):
        return jnp.cumsum(jax.nn.log_sigmoid(x + 2.0), axis=-1)

    return (
        consts,
        carry,
        tile._replace(
            keep=sums(tile.keep),
            eta=sums(tile.eta),
            theta=jax.nn.sigmoid(tile.theta) / length,
            moves=(tile.moves > -0.3).astype(jnp.float32),
            reset=(tile.reset > 0.0).astype(jnp.float32),
            settles=(tile.settles > 0.0).astype(jnp.float32),
        ),
    )
