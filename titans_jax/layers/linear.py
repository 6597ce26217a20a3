"""The one kind of linear layer: no bias, truncated normal, deviation scale / sqrt(fan in)."""

from __future__ import annotations

from typing import Any

import jax
from flax import nnx

from titans_jax.layers.norms import statistics_dtype


def linear(
    fan_in: int,
    fan_out: int,
    dtype: jax.typing.DTypeLike,
    *,
    scale: float = 1.0,
    rngs: nnx.Rngs,
) -> nnx.Linear:
    """Makes a linear layer without bias.

    Args:
        fan_in: size of the input's last axis.
        fan_out: size of the output's last axis.
        dtype: dtype of the activations and the product; the kernel is kept in float32 at least.
        scale: factor on the initial standard deviation; layers that write into the residual stream
            take 1 / sqrt(2 x layers), so that its variance does not grow with depth (GPT-2).
        rngs: source of the initial kernel.

    Returns:
        The layer.
    """
    return nnx.Linear(
        fan_in,
        fan_out,
        use_bias=False,
        dtype=dtype,
        param_dtype=statistics_dtype(dtype),
        dot_general=_flat_dot_general,
        kernel_init=nnx.initializers.variance_scaling(scale**2, "fan_in", "truncated_normal"),
        rngs=rngs,
    )


def _flat_dot_general(
    x: jax.Array, kernel: jax.Array, dimension_numbers: Any, **options: Any
) -> jax.Array:
    """The layer's product with all leading axes of x as one.

    The kernel's gradient then contracts one axis. With two, XLA on a CPU first writes out a factor transposed, which
    costs more than the product.
    """
    del dimension_numbers  # the layer's: x's last axis with the kernel's first
    flat = jax.lax.dot_general(
        x.reshape(-1, x.shape[-1]), kernel, (((1,), (0,)), ((), ())), **options
    )
    return flat.reshape(*x.shape[:-1], kernel.shape[-1])
