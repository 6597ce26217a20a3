"""Zeros that the compiler does not see through: what a stream's state is made of before its first token.

The XLA of jax 0.10.2 gives wrong numbers on CPUs where a product reads a broadcast constant and shares a fusion of
the YNNPACK library with a sum: it reads memory that nothing wrote. A sequence that ends within its first chunk is such
a case: its state is a constant, and every read of the memory is a product with it.
`tests/titans_jax/test_zeros.py` looks for such products in compiled models.
"""

from collections.abc import Sequence

import jax

from titans_jax.typing import Array


def run_time_zeros(shape: Sequence[int], dtype: jax.typing.DTypeLike) -> Array:
    """`jnp.zeros` of a floating type, computed when the program runs."""
    ramp = jax.lax.broadcasted_iota(dtype, tuple(shape), len(shape) - 1)
    return 0 * ramp  # a float times 0 is not simplified, since it may be NaN
