"""The memory's own step of a kernel, `titans_jax.memory.executions.tiled.kernel_step`, with its arguments."""

import jax
import jax.numpy as jnp

from titans_jax.memory import Carry, Gates, MLPNetwork, Rule
from titans_jax.memory.dual import Tile
from titans_jax.memory.executions.tiled import kernel_step

#: The step of a memory.
memory_step = kernel_step


def memory_shapes(
    network: MLPNetwork, groups, chunks, length, head_dim, dtype=jnp.bfloat16, flags=False, **rule
):
    """Shapes of consts, carry and xs for `memory_step`.

    Args:
        network: the memory network.
        groups, chunks: G and N.
        length: tokens of a chunk.
        head_dim: features.
        dtype: of the tokens.
        flags: with masks, resets, and an anchor of its own.
        **rule: of `Rule`; a memory that reads after its write and bounds its step, as in the presets. With
            ``anchor="token"`` forgetting goes to some weights.
    """

    def array(*shape, dtype=jnp.float32):
        return jax.ShapeDtypeStruct(shape, dtype)

    tokens = array(groups, chunks, length, head_dim, dtype=dtype)
    row, flag = array(groups, chunks, 1, length), array(groups, chunks, 1, 1)
    weights, start = (
        tuple(array(g, *shape) for shape in network.shapes(head_dim)) for g in (groups, 1)
    )
    tile = Tile(tokens, tokens, tokens, Gates(row, row, row))
    rule = {"bound": "gradient"} | rule
    base = start if rule.get("anchor") == "token" else None
    consts = Rule(network, base=base, **rule)
    if not flags:
        return (consts, None), (Carry(weights, weights), None), tile
    return (
        (consts, Carry(start, start)),
        (Carry(weights, weights), weights),
        tile._replace(moves=row, reset=flag, settles=flag),
    )


def memory_inputs(network: MLPNetwork, groups, chunks, length, head_dim, dtype=jnp.float32, **rule):
    """Random arguments of the shapes above, with gates inside (0, 1) and documents that start."""
    shapes = memory_shapes(network, groups, chunks, length, head_dim, dtype, flags=True, **rule)
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
            gates=Gates(
                sums(tile.gates.log_keep),
                sums(tile.gates.log_eta),
                jax.nn.sigmoid(tile.gates.theta) / length,
            ),
            moves=(tile.moves > -0.3).astype(jnp.float32),
            reset=(tile.reset > 0.0).astype(jnp.float32),
            settles=(tile.settles > 0.0).astype(jnp.float32),
        ),
    )
