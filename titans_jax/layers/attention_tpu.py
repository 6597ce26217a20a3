"""Attention on a TPU: JAX's splash attention over the keys, joined with the persistent prefix.

The prefix meets the unrotated query and the keys the rotated one, which one kernel call cannot do. So the
kernel attends to the keys and gives its log-sum-exp, a small product attends to the prefix, and the two
softmaxes are joined. Backward, the kernel's own VJP runs with the joint log-sum-exp and outputs, from which it
computes the joint weights: nothing is attended twice. That VJP has no public name in JAX
(`_splash_attention_bwd`); the tests of this file hold it to the XLA attention.

Documents and padding are the kernel's segment ids, and which key lies in whose past is its static mask.
Lengths are padded to whole blocks. Under a mesh the kernel is shared out as placement.py says.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_kernel as splash
from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_mask as masks
from jax.sharding import PartitionSpec

from titans_jax.placement import kernel_shares, target_platform
from titans_jax.typing import Array, Float, Int

#: The kernel's matrices are whole lanes wide.
LANES = 128
#: Queries and keys of one grid step: the largest whose score tile leaves room to work in 16 MiB of VMEM.
LARGEST_BLOCK = 512
#: Rotations by positions beyond this lose more to float32 than to bfloat16.
LARGEST_POSITION = 2**15
#: Id of what no token attends to, except padding itself: a row of scores without any key has no softmax.
NOBODY = -1


class Past(NamedTuple):
    """Which keys lie in the past of each query, before documents and padding.

    Attributes:
        queries: number of queries.
        keys: number of keys; query i is key ``keys - queries + i`` of them, or of each copy.
        window: keys that a query sees, its own included; None for all.
        copies: times the keys are repeated (MAC's recalled context has the positions of its tokens).
    """

    queries: int
    keys: int
    window: int | None = None
    copies: int = 1


def runs(q: Float[Array, "B T H K"], past: Past) -> bool:
    """Whether the kernel attends for these queries.

    It needs the TPU as target, heads of whole lanes, float32 or bfloat16, at least `LANES` queries (fewer, as
    in decoding, would mostly be padding), positions within `LARGEST_POSITION`, JAX's 32-bit mode, which splash
    attention takes for granted, and no enclosing ``jax.shard_map`` that checks how values vary, of which it
    says nothing. Otherwise XLA attends.

    Args:
        q: queries.
        past: what they may see.
    """
    config: Any = jax.config
    return (
        target_platform() == "tpu"
        and q.shape[-1] % LANES == 0
        and q.dtype in (jnp.float32, jnp.bfloat16)
        and past.queries >= LANES
        and past.keys <= LARGEST_POSITION
        and not config.jax_enable_x64
        and not jax.typeof(q).manual_axis_type.varying
    )


def attend(
    q: Float[Array, "B T H K"],
    rotated_q: Float[Array, "B T H K"],
    rotated_keys: Float[Array, "B S H K"],
    values: Float[Array, "B S H K"],
    prefix_keys: Float[Array, "P H K"],
    prefix_values: Float[Array, "P H K"],
    *,
    past: Past,
    query_ids: Int[Array, "B T"],
    key_ids: Int[Array, "B S"],
) -> Float[Array, "B T H K"]:
    """`attention.attend` by the kernel, with what is visible told by `past` and ids.

    Args:
        q: queries for the prefix.
        rotated_q: the same, rotated by position.
        rotated_keys: keys, rotated by position; S is ``past.copies * past.keys``.
        values: values of the keys.
        prefix_keys: keys of the persistent tokens; P may be 0.
        prefix_values: values of the persistent tokens.
        past: which keys a query may see.
        query_ids: documents of the queries, `NOBODY` for padding.
        key_ids: documents of the keys, `NOBODY` for those that nobody sees.

    Returns:
        The attended values, in `q`'s dtype. Padding attends to other padding in its past.
    """
    block_q = _block(past.queries)
    more_queries = -past.queries % block_q
    block_keys = _block(past.copies * past.keys + more_queries)
    # Padded queries need padded keys of their own, or they would see none.
    more_keys = more_queries + -(past.copies * past.keys + more_queries) % block_keys

    def pad(x, rows, value=0):
        widths = ((0, 0), (0, rows)) + ((0, 0),) * (x.ndim - 2)
        return jnp.pad(x, widths, constant_values=value)

    blocks = (block_q, block_keys)
    mask = _mask(past, past.queries + more_queries, past.copies * past.keys + more_keys)
    out = _joined(_Static(mask, blocks))(
        pad(q, more_queries),
        pad(rotated_q, more_queries),
        pad(rotated_keys, more_keys),
        pad(values, more_keys),
        prefix_keys,
        prefix_values,
        pad(query_ids, more_queries, NOBODY),
        pad(key_ids, more_keys, NOBODY),
    )
    return out[:, : past.queries]


def _block(length: int) -> int:
    return min(LARGEST_BLOCK, -(-length // LANES) * LANES)


def _mask(past: Past, queries: int, keys: int) -> masks.Mask:
    """The kernel's mask with room for padding at the end of queries and keys."""
    if past.copies == 1:
        left = None if past.window is None else past.window - 1
        return masks.LocalMask((queries, keys), (left, 0), past.keys - past.queries)
    place = np.arange(keys, dtype=np.int32) % past.keys
    place = np.where(np.arange(keys) < past.copies * past.keys, place, past.keys)
    own = past.keys - past.queries + np.arange(queries)[:, None]
    return masks.NumpyMask(place <= own)  # [Q, S]


class _Static(NamedTuple):
    """What a call of the kernel is compiled with."""

    mask: masks.Mask
    blocks: tuple[int, int]

    def kernel(self, heads: int) -> splash.SplashAttentionKernel:
        block_q, block_keys = self.blocks
        return splash.make_splash_mha(
            masks.MultiHeadMask([self.mask] * heads),
            block_sizes=splash.BlockSizes(
                block_q=block_q,
                block_kv=block_keys,
                block_q_dkv=block_q,
                block_kv_dkv=block_keys,
                block_q_dq=block_q,
                block_kv_dq=block_keys,
            ),
            head_shards=1,
            q_seq_shards=1,
            save_residuals=True,
        )


def _joined(static: _Static) -> Callable[..., Array]:
    """Attention to the keys by the kernel and to the prefix by XLA, differentiable in reverse mode.

    Of queries [B T H K], rotated queries, rotated keys, values, the prefix [P H K] twice, and ids [B T], [B S].
    """

    @jax.custom_vjp
    def attend(*arguments: Array) -> Array:
        return forward(*arguments)[0]

    def forward(q, rotated_q, keys, values, prefix_keys, prefix_values, query_ids, key_ids):
        ids = (query_ids, key_ids)
        out, total = _partitioned(functools.partial(_forward, static), "qkvii", "ql")(
            _scaled(rotated_q), keys, values, *ids
        )
        if prefix_keys.shape[0]:
            scores = _prefix_scores(q, prefix_keys)  # [B, H, T, P]
            of_keys = total
            total = jnp.logaddexp(of_keys, jax.nn.logsumexp(scores, axis=-1))  # [B, H, T]
            weights = jnp.exp(scores - total[..., None]).astype(q.dtype)
            of_prefix = jnp.einsum(
                "bhtp,phk->bthk", weights, prefix_values, preferred_element_type=jnp.float32
            )
            share = jnp.exp(of_keys - total).swapaxes(1, 2)[..., None]  # [B, T, H, 1]
            out = (share * out.astype(jnp.float32) + of_prefix).astype(q.dtype)
        primals = (q, rotated_q, keys, values, prefix_keys, prefix_values)
        return out, (primals, ids, out, total)

    def backward(residuals, d_out):
        (q, rotated_q, keys, values, prefix_keys, prefix_values), ids, out, total = residuals
        scale = q.shape[-1] ** -0.5
        d_scaled, d_keys, d_values = _partitioned(
            functools.partial(_backward, static), "qkviiqlq", "qkv"
        )(_scaled(rotated_q), keys, values, *ids, out, total, d_out)
        d_rotated_q = (d_scaled.astype(jnp.float32) * scale).astype(rotated_q.dtype)
        einsum = functools.partial(jnp.einsum, preferred_element_type=jnp.float32)
        weights = jnp.exp(_prefix_scores(q, prefix_keys) - total[..., None])  # [B, H, T, P]
        d_weights = einsum("bthk,phk->bhtp", d_out, prefix_values)
        along = jnp.sum(out.astype(jnp.float32) * d_out.astype(jnp.float32), axis=-1)  # [B, T, H]
        d_scores = (weights * (d_weights - along.swapaxes(1, 2)[..., None])).astype(q.dtype)
        d_q = einsum("bhtp,phk->bthk", d_scores, prefix_keys) * scale
        d_prefix_keys = einsum("bhtp,bthk->phk", d_scores, q) * scale
        d_prefix_values = einsum("bhtp,bthk->phk", weights.astype(q.dtype), d_out)
        return (
            d_q.astype(q.dtype),
            d_rotated_q,
            d_keys,
            d_values,
            d_prefix_keys.astype(prefix_keys.dtype),
            d_prefix_values.astype(prefix_values.dtype),
            None,
            None,
        )

    attend.defvjp(forward, backward)
    return attend


def _scaled(rotated_q: Float[Array, "B T H K"]) -> Float[Array, "B T H K"]:
    """Queries as the kernel wants them: it does not divide scores by sqrt(K)."""
    scaled = rotated_q.astype(jnp.float32) * rotated_q.shape[-1] ** -0.5
    return scaled.astype(rotated_q.dtype)


def _prefix_scores(
    q: Float[Array, "B T H K"], prefix_keys: Float[Array, "P H K"]
) -> Float[Array, "B H T P"]:
    scores = jnp.einsum("bthk,phk->bhtp", q, prefix_keys, preferred_element_type=jnp.float32)
    return scores * q.shape[-1] ** -0.5


def _forward(static, q, keys, values, query_ids, key_ids):
    """Outputs [B T H K] and log-sum-exp [B H T] of the keys alone, on one device."""
    kernel = static.kernel(q.shape[2])

    def one_sequence(q, keys, values, query_ids, key_ids):
        out, (total,) = kernel(
            *_heads_first(q, keys, values), splash.SegmentIds(query_ids, key_ids)
        )
        return out.swapaxes(0, 1), total

    return jax.vmap(one_sequence)(q, keys, values, query_ids, key_ids)


def _backward(static, q, keys, values, query_ids, key_ids, out, total, d_out):
    """Cotangents of queries, keys and values, given the joint outputs and log-sum-exp, on one device."""
    kernel = static.kernel(q.shape[2])

    def one_sequence(q, keys, values, query_ids, key_ids, out, total, d_out):
        q, keys, values, out, d_out = _heads_first(q, keys, values, out, d_out)
        ids = splash.SegmentIds(query_ids, key_ids)
        sparsity = (kernel.dq_mask_info, kernel.dkv_mask_info)
        residuals = (q, keys, values, ids, None, out, total, *sparsity)
        cotangents = splash._splash_attention_bwd(res=residuals, do=d_out, **kernel.kwargs)
        return _heads_first(*cotangents[3:6])

    return jax.vmap(one_sequence)(q, keys, values, query_ids, key_ids, out, total, d_out)


def _heads_first(*arrays: Array) -> tuple[Array, ...]:
    """Exchanges the axes of tokens and heads."""
    return tuple(a.swapaxes(0, 1) for a in arrays)


def _partitioned(function: Callable[..., Any], inputs: str, outputs: str) -> Callable[..., Any]:
    """The function on every device's share of the batch and heads (placement.py).

    Args:
        function: of arrays.
        inputs: one letter for each array: q, k, v for [B T H K], l for [B H T], i for ids [B T].
        outputs: the same for the results.
    """

    def call(*arrays: Array) -> Any:
        sequences, _, heads, _ = arrays[0].shape
        shares = kernel_shares(sequences, heads)
        if shares is None:
            return function(*arrays)
        b, h = shares.batch, shares.heads
        by_kind = dict.fromkeys("qkv", PartitionSpec(b, None, h)) | {
            "l": PartitionSpec(b, h),
            "i": PartitionSpec(b),
        }
        return jax.shard_map(
            function,
            in_specs=tuple(by_kind[kind] for kind in inputs),
            out_specs=tuple(by_kind[kind] for kind in outputs),
            axis_names=shares.axes,
            check_vma=False,  # the kernel does not say how its outputs vary
        )(*arrays)

    return call
