"""Checksums of arrays, the same however an array is shared out over devices and processes.

An array's checksum is the sum, modulo 2^32, of its elements' bits, each times a weight that depends on its position.
A sum can be taken where the parts are, so nothing is gathered and nothing leaves the devices but one number per array.
Weights are odd, hence invertible modulo 2^32: one altered element always changes the sum; more of them, or a different
order, all but surely (once in 2^32).
"""

import math

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import UInt32

_WORD = {1: jnp.uint8, 2: jnp.uint16, 4: jnp.uint32, 8: jnp.uint32}  # 8 bytes become two words


def checksums(arrays: dict[str, jax.Array]) -> dict[str, int]:
    """Returns every array's checksum. With several processes, all of them call it together.

    Args:
      arrays: by name, on the devices of one mesh; numbers of any type of 1, 2, 4 or 8 bytes.
    """
    sums = jax.device_get(_checksums(list(arrays.values())))
    return {name: int(value) for name, value in zip(arrays, sums, strict=True)}


@jax.jit
def _checksums(arrays: list[jax.Array]) -> list[UInt32[jax.Array, ""]]:
    return [_checksum(array) for array in arrays]


def _checksum(array: jax.Array) -> UInt32[jax.Array, ""]:
    if array.dtype == jnp.bool_:
        array = array.astype(jnp.uint8)
    words = lax.bitcast_convert_type(array, _WORD[array.dtype.itemsize]).astype(jnp.uint32)
    weights = _scattered(_positions(words.shape)) | jnp.uint32(1)
    return jnp.sum(words * weights, dtype=jnp.uint32)


def _positions(shape: tuple[int, ...]) -> UInt32[jax.Array, "..."]:
    # One iota per axis: a reshaped one would have to be gathered where the array is shared out.
    positions = jnp.zeros(shape, jnp.uint32)
    for axis in range(len(shape)):
        stride = math.prod(shape[axis + 1 :]) % 2**32
        positions += lax.broadcasted_iota(jnp.uint32, shape, axis) * jnp.uint32(stride)
    return positions


def _scattered(x: UInt32[jax.Array, "..."]) -> UInt32[jax.Array, "..."]:
    # Each bit of the input changes about half of the output's (two rounds of shift and multiply).
    for shift, factor in ((16, 0x7FEB352D), (15, 0x846CA68B)):
        x = (x ^ (x >> shift)) * jnp.uint32(factor)
    return x ^ (x >> 16)
