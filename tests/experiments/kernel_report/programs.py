"""Small programs whose schedules can be reasoned about; compiled by name in processes of their own."""

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

STEPS = 8


def products(width: int, chain: int, parallel: int = 1, loop: int = 1):
    """`parallel` chains of `chain` dependent [width, width] products, `loop` times, in every grid step."""

    def kernel(x_ref, w_ref, y_ref):
        def body(_, x):
            for _ in range(chain):
                x = [
                    jnp.dot(a, w_ref[...], preferred_element_type=jnp.float32).astype(a.dtype)
                    for a in x
                ]
            return x

        x = [x_ref[i] for i in range(parallel)]
        x = jax.lax.fori_loop(0, loop, body, x) if loop > 1 else body(0, x)
        for i, a in enumerate(x):
            y_ref[i] = a

    def fn(x, w):
        block = pl.BlockSpec((None, parallel, width, width), lambda i: (i, 0, 0, 0))
        return pl.pallas_call(
            kernel,
            grid=(STEPS,),
            in_specs=[block, pl.BlockSpec((width, width), lambda i: (0, 0))],
            out_specs=block,
            out_shape=x,
            name="products",
        )(x, w)

    x = jax.ShapeDtypeStruct((STEPS, parallel, width, width), jnp.bfloat16)
    return fn, (x, jax.ShapeDtypeStruct((width, width), jnp.bfloat16))


def resident(megabytes: int):
    """Clears a scratch of so many MB in the first grid step, and adds 8 rows to some of it in every one."""
    rows = megabytes * 2**20 // (4 * 128)

    def kernel(x_ref, y_ref, sum_ref):
        @pl.when(pl.program_id(0) == 0)
        def _():
            sum_ref[...] = jnp.zeros_like(sum_ref)

        rows = pl.ds(8 * pl.program_id(0), 8)
        sum_ref[rows] += x_ref[...]
        y_ref[...] = sum_ref[rows]

    def fn(x):
        block = pl.BlockSpec((None, 8, 128), lambda i: (i, 0, 0))
        return pl.pallas_call(
            kernel,
            grid=(STEPS,),
            in_specs=[block],
            out_specs=block,
            out_shape=x,
            scratch_shapes=[pltpu.VMEM((rows, 128), jnp.float32)],
            name="resident",
        )(x)

    return fn, (jax.ShapeDtypeStruct((STEPS, 8, 128), jnp.float32),)


def xla_loop(trips: int):
    """No kernel: a scan whose body is a product and a tanh."""

    def fn(x, w):
        return jax.lax.scan(lambda c, _: (jnp.tanh(c @ w), None), x, length=trips)[0]

    matrix = jax.ShapeDtypeStruct((512, 512), jnp.float32)
    return fn, (matrix, matrix)
