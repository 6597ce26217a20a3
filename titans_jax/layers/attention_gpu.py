"""Attention on a GPU: cuDNN's, by ``jax.nn.dot_product_attention``.

The prefix meets the unrotated query and the keys the rotated one. One softmax over both is one product of
twice the width: queries [rotated, unrotated] with keys [key, 0] and prefix keys [0, key].

cuDNN serves float16 and bfloat16, which is asked here because JAX's own answer differs between its versions, and
heads up to a width that depends on the GPU, which JAX checks while tracing and only where a GPU is present; what it
refuses, and what is lowered for a GPU on another host, is left to XLA by `attention.attend`. The XLA form of
``jax.nn.dot_product_attention`` is never chosen: it is what `attention.attend` computes, at twice the width.
"""

from __future__ import annotations

from typing import Any, Literal

import jax
import jax.numpy as jnp

from titans_jax.placement import target_platform
from titans_jax.typing import Array, Bool, Float

#: Fewer queries than this (decoding) are left to XLA.
FEWEST_QUERIES = 64


def runs(
    q: Float[Array, "... Q H K"],
    rotated_q: Float[Array, "... Q H K"],
    rotated_keys: Float[Array, "... S H K"],
    values: Float[Array, "... S H K"],
    visible: Bool[Array, "... Q S"],
    prefix_keys: Float[Array, "P H K"],
    prefix_values: Float[Array, "P H K"],
) -> bool:
    """Whether cuDNN attends for these queries, by its own account.

    Args:
        q: as for `attend`, as are the others.
        rotated_q: likewise.
        rotated_keys: likewise.
        values: likewise.
        visible: likewise.
        prefix_keys: likewise.
        prefix_values: likewise.
    """
    if q.dtype not in (jnp.float16, jnp.bfloat16) or q.shape[-3] < FEWEST_QUERIES:
        return False
    if not target_platform() == jax.default_backend() == "gpu":
        return False

    def loss(q: Array, *others: Any) -> Array:
        return jnp.sum(attend(q, *others).astype(jnp.float32))

    arguments = (q, rotated_q, rotated_keys, values, visible, prefix_keys, prefix_values)
    try:
        jax.eval_shape(jax.grad(loss), *arguments)
    except (NotImplementedError, RuntimeError):
        return False
    return True


def attend(
    q: Float[Array, "... Q H K"],
    rotated_q: Float[Array, "... Q H K"],
    rotated_keys: Float[Array, "... S H K"],
    values: Float[Array, "... S H K"],
    visible: Bool[Array, "... Q S"],
    prefix_keys: Float[Array, "P H K"],
    prefix_values: Float[Array, "P H K"],
    implementation: Literal["cudnn", "xla"] = "cudnn",
) -> Float[Array, "... Q H K"]:
    """`attention.attend` by ``jax.nn.dot_product_attention``.

    Args:
        q: queries for the prefix.
        rotated_q: the same queries, rotated by position, for the keys.
        rotated_keys: keys, rotated by position.
        values: values of the keys.
        visible: which key each query may see.
        prefix_keys: keys of the persistent tokens; P may be 0.
        prefix_values: values of the persistent tokens.
        implementation: "cudnn", or "xla" where there is no GPU.

    Returns:
        The attended values, in `q`'s dtype.

    Raises:
        NotImplementedError: cuDNN does not serve this dtype, head size or length.
        RuntimeError: cuDNN is not there.
    """
    lead, (length, heads, width) = q.shape[:-3], q.shape[-3:]
    size = prefix_keys.shape[0]
    # With a mask, cuDNN's backward asks for an even number of keys: one that nobody sees makes it so.
    spare = (size + rotated_keys.shape[-3]) % 2

    def flat(x: Array) -> Array:
        return x.reshape(-1, *x.shape[len(lead) :])  # [N, ...]

    def widen(x: Array, before: int, after: int) -> Array:
        return jnp.pad(x, ((0, 0),) * (x.ndim - 1) + ((before, after),))

    queries, keys, values = flat(rotated_q), flat(rotated_keys), flat(values)
    if size:
        count = queries.shape[0]

        def join(prefix: Array, x: Array) -> Array:
            prefix = jnp.broadcast_to(prefix, (count, *prefix.shape))
            return jnp.concatenate([prefix, x], axis=1)

        queries = jnp.concatenate([queries, flat(q)], axis=-1)  # [N, Q, H, 2K]
        keys = join(widen(prefix_keys, width, 0), widen(keys, 0, width))  # [N, P+S, H, 2K]
        values = join(widen(prefix_values, 0, width), widen(values, 0, width))
    mask = jnp.pad(flat(visible), ((0, 0), (0, 0), (size, 0)), constant_values=True)  # [N, Q, P+S]
    keys, values = (jnp.pad(x, ((0, 0), (0, spare), (0, 0), (0, 0))) for x in (keys, values))
    mask = jnp.pad(mask, ((0, 0), (0, 0), (0, spare)))[:, None]  # [N, 1, Q, P+S+spare]
    out = jax.nn.dot_product_attention(
        queries, keys, values, mask=mask, scale=width**-0.5, implementation=implementation
    )
    return out[..., :width].reshape(*lead, length, heads, width)
