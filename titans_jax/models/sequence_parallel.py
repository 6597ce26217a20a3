"""Sequence parallelism: tokens shared out over the mesh axis "sequence", the model's streaming state handed on.

A Titans carries everything that later tokens need in a state of one size: M and S of every layer, the last tokens of
its convolutions, the keys and values of its attention window (the halo that windows of neighbouring shards share). So
shard s reads its tokens from the state that shard s - 1 ended with, and the numbers are those of one device.

That alone would let one shard work at a time. A device's sequences are therefore read one after the other: while
shard 1 reads its tokens of the first, shard 0 reads those of the second. With m sequences per device and n shards there
are m + n - 1 turns of which every shard works in m; gradients go back through the turns in reverse.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax.sharding import PartitionSpec

from titans_jax.memory.state import MemoryState
from titans_jax.models.language_model import Titans
from titans_jax.placement import BATCH_AXES, SEQUENCE_AXIS, free_axes
from titans_jax.typing import Array, Float


def sequence_shards() -> int:
    """Shards of the mesh axis "sequence" in context; 1 where there is none."""
    return free_axes().get(SEQUENCE_AXIS, 1)


def pipelined_sums(
    model: Titans, batch: Mapping[str, Array], sums: Any
) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """Sums of something over all tokens of a batch, by the shards of the axis "sequence".

    Args:
        model: any variant whose state has one size: not full attention.
        batch: arrays [B, T], of which "inputs" and "reset" (or none) go into the model. B is a multiple of the
            batch axes of the mesh, T of the shards, and each shard's tokens are whole chunks (MAC: segments).
        sums: (logits, batch of as many tokens) -> two scalars, such as nats and tokens.

    Returns:
        The two sums.

    Raises:
        ValueError: naming what does not fit.
    """
    shards, free = sequence_shards(), free_axes()
    rows, length = batch["inputs"].shape
    devices = math.prod(free.get(axis, 1) for axis in BATCH_AXES)
    config = model.config
    if config.variant == "transformer" and config.window is None:
        raise ValueError("window must be a positive integer under sequence parallelism, got None")
    chunk = config.alignment
    if length % (shards * chunk):
        raise ValueError(
            f"batch must be of a multiple of {shards * chunk} tokens, whole chunks for each of {shards} shards, "
            f"got {length}"
        )
    if rows % devices:
        raise ValueError(f"batch must be of a multiple of {devices} sequences, got {rows}")
    parts = rows // devices
    graphdef, params = nnx.split(model)

    def on_shard(params: Any, shard: Array, batch: dict[str, Array]) -> tuple[Array, Array]:
        model, shard = nnx.merge(graphdef, params), shard[0]
        # Every device's share of the batch is cut, so that no sequence moves to another device.
        turns = jax.tree.map(lambda x: x.reshape(devices, parts, -1).swapaxes(0, 1), batch)
        start = model.init_state(devices)

        def turn(arrived: Any, number: Array) -> tuple[Any, tuple[Array, Array]]:
            mine = number - shard
            part = jax.tree.map(lambda x: x[jnp.clip(mine, 0, parts - 1)], turns)
            state = jax.tree.map(
                lambda new, old: jnp.where(shard == 0, new, old), start, _unpacked(arrived)
            )
            logits, state = model(
                part["inputs"],
                state,
                reset=part.get("reset"),
                aligned=config.has_memory,
            )
            working = (mine >= 0) & (mine < parts)
            first, second = (jnp.where(working, x, 0) for x in sums(logits, part))
            onward = [(i, i + 1) for i in range(shards - 1)]
            sent = jax.tree.map(
                lambda x: jax.lax.ppermute(x, SEQUENCE_AXIS, onward), _packed(state)
            )
            return sent, (first, second)

        _, results = jax.lax.scan(
            turn, _packed(start), jnp.arange(parts + shards - 1, dtype=jnp.int32)
        )
        first, second = (jax.lax.psum(jnp.sum(x), SEQUENCE_AXIS) for x in results)
        return first, second

    tokens = PartitionSpec(None, SEQUENCE_AXIS)
    return jax.shard_map(
        on_shard,
        in_specs=(PartitionSpec(), PartitionSpec(SEQUENCE_AXIS), tokens),
        out_specs=(PartitionSpec(), PartitionSpec()),
        axis_names={SEQUENCE_AXIS},
        check_vma=False,  # attention kernels do not say how their outputs vary
    )(params, jnp.arange(shards, dtype=jnp.int32), dict(batch))


def _packed(state: Any) -> Any:
    """The state without the anchors, which are M at a chunk's start and need not travel."""
    return _memories(state, lambda memory: memory._replace(anchor=None))


def _unpacked(state: Any) -> Any:
    return _memories(state, lambda memory: memory._replace(anchor=memory.weights))


def _memories(state: Any, change: Any) -> Any:
    return jax.tree.map(
        lambda node: change(node) if isinstance(node, MemoryState) else node,
        state,
        is_leaf=lambda node: isinstance(node, MemoryState),
    )
