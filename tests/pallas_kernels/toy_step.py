"""A small recurrence with every kind of pytree, and ``lax.scan`` as the reference of a fused scan."""

from typing import NamedTuple

import jax
import jax.numpy as jnp


class ToyCarry(NamedTuple):
    matrix: jax.Array
    absent: None
    total: tuple[jax.Array]


WIDTH = 16


def toy_step(consts, carry, x):
    """A decaying sum of outer products, read before it is written, and a sum of reads. Shapes: `toy_inputs`."""
    decay = x["decay"]
    tokens = x["tokens"].astype(carry.matrix.dtype)  # a matmul of two dtypes does not lower on GPU
    read = jnp.dot(tokens, carry.matrix, preferred_element_type=jnp.float32)  # [R, K]
    y = jnp.tanh(read) + consts["bias"]  # [R, K]
    outer = jax.lax.dot_general(
        y, tokens, (((0,), (0,)), ((), ())), preferred_element_type=jnp.float32
    )  # [K, K]
    matrix = carry.matrix * jnp.exp(-decay * decay) + 0.1 * consts["gain"] * outer
    total = carry.total[0] + jnp.mean(y, axis=0, keepdims=True)
    return ToyCarry(matrix, None, (total,)), (y.astype(x["tokens"].dtype), (), {"total": total})


def toy_inputs(groups=3, chunks=7, shared=1, per_group=3, dtype=jnp.float32):
    """consts, carry and xs; ``shared`` and ``per_group`` are Gc of the two constants."""
    keys = jax.random.split(jax.random.key(1), 6)

    def normal(i, *shape):
        return jax.random.normal(keys[i], (*shape, WIDTH), jnp.float32)

    consts = {"bias": normal(0, shared, 1), "gain": normal(1, per_group, 1), "absent": None}
    carry = ToyCarry(0.1 * normal(2, groups, WIDTH), None, (normal(3, groups, 1),))
    tokens = normal(4, groups, chunks, WIDTH).astype(dtype)
    return consts, carry, {"tokens": tokens, "decay": normal(5, groups, chunks, 1)}


def reference_scan(step, consts, carry, xs):
    """What a fused scan must equal: ``vmap`` over groups of ``lax.scan`` over chunks."""
    groups = jax.tree.leaves(xs)[0].shape[0]
    consts = jax.tree.map(lambda c: jnp.tile(c, (groups // c.shape[0], 1, 1)), consts)

    def one_group(consts, carry, xs):
        return jax.lax.scan(lambda carry, x: step(consts, carry, x), carry, xs)

    return jax.vmap(one_group)(consts, carry, xs)


def outputs_and_gradients(scan):
    """``(consts, carry, xs) -> ((carry, ys), gradients)`` of a loss that reads every output."""

    def loss(*args):
        outputs = scan(*args)
        leaves = jax.tree.leaves(outputs)
        return sum(jnp.sum(jnp.sin(a.astype(jnp.float32))) for a in leaves), outputs

    def run(*args):
        (_, outputs), gradients = jax.value_and_grad(loss, (0, 1, 2), has_aux=True)(*args)
        return outputs, gradients

    return jax.jit(run)
