"""The programs that the report compiles, by name (compile.py): the memory under `fused_scan`, and its plain form."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from experiments.kernel_report.shapes import GROUPS, MemoryShape
from pallas_kernels import fused_scan
from pallas_kernels.fused_scan.api import Implementation
from titans_jax.memory import Carry, Gates, MLPNetwork, chunk_update
from titans_jax.memory.chunk import Tile
from titans_jax.memory.chunked import GridTokens
from titans_jax.memory.fused import (
    FusedCarry,
    FusedConstants,
    fused_step,
    grouped_tiles,
    saved_dtype,
)
from titans_jax.memory.gates import gate_sums, tile_gates
from titans_jax.typing import Array


class Inputs(NamedTuple):
    """Tokens of G groups in N chunks, and their memories before the first: arrays, or their shapes.

    Attributes:
        q, k, v: ``[G, N, C, K]``.
        gates: fields ``[G, N, C]``.
        weights, momentum: ``[G, d_in, d_out]`` per layer.
    """

    q: Any
    k: Any
    v: Any
    gates: Any
    weights: Any
    momentum: Any


#: The dtype in which the memory saves its carries for backward, its tokens being bfloat16.
SAVED_DTYPE = saved_dtype(jnp.dtype(jnp.bfloat16))


class Scan(NamedTuple):
    """What `fused_scan` runs: its step, and its arguments (consts, carry, xs) from the inputs."""

    step: Callable[..., Any]
    arguments: Callable[[Inputs], tuple[Any, Any, Any]]


def network_of(shape: MemoryShape) -> MLPNetwork:
    """The memory network; a deep one bounds its step, as in the presets."""
    return MLPNetwork("mlp", shape.depth, shape.expansion)


def abstract_inputs(shape: MemoryShape, groups: int = GROUPS) -> Inputs:
    """Shapes and dtypes of training: bfloat16 tokens, float32 gates and state."""
    network = network_of(shape)

    def array(*dims: int, dtype: Any = jnp.float32) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct((groups, *dims), dtype)

    tokens = array(shape.chunks, shape.chunk, shape.d_head, dtype=jnp.bfloat16)
    gate = array(shape.chunks, shape.chunk)
    weights = tuple(array(*layer) for layer in network.shapes(shape.d_head))
    gates: Any = (gate, gate, gate)
    return Inputs(tokens, tokens, tokens, Gates(*gates), weights, weights)


def plain_scan(shape: MemoryShape) -> Scan:
    """`chunk_update` as the step: the algebra as it is written down, whatever the kernel makes of it."""
    network = network_of(shape)

    def step(consts: None, carry: Carry, tile: Tile) -> tuple[Carry, Array]:
        wide = tile.widened(carry.weights[0].dtype)
        carry, y = chunk_update(network, None, carry, wide, "after", not network.linear)
        return carry, y.astype(tile.q.dtype)

    def arguments(inputs: Inputs) -> tuple[None, Carry, Tile]:
        by_head = jax.tree.map(lambda g: g[..., None], inputs.gates)  # [G, N, C, H]
        sums = jax.tree.map(lambda g: g[..., 0], gate_sums(by_head, "after"))
        gates = jax.vmap(jax.vmap(lambda one: tile_gates(one, None)))(sums)
        tile = Tile(inputs.q, inputs.k, inputs.v, gates)
        return None, Carry(inputs.weights, inputs.momentum), tile

    return Scan(step, arguments)


def kernel_scan(shape: MemoryShape) -> Scan:
    """The memory as titans_jax gives it to `fused_scan`."""
    network = network_of(shape)
    step = functools.partial(fused_step, network, "after", not network.linear)

    def on_grid(
        x: Array,
    ) -> Array:  # [G, N, C, ...] -> [N, tiles, B, C, H, ...], one tile, one sequence
        return jnp.moveaxis(x, 0, 2)[:, None, None]

    def arguments(inputs: Inputs) -> tuple[FusedConstants, FusedCarry, Any]:
        q, k, v, gates = jax.tree.map(on_grid, inputs[:4])
        tiles = grouped_tiles(GridTokens(q, k, v, gates, None, None, None), "after")
        carry = FusedCarry(Carry(inputs.weights, inputs.momentum), None)
        return FusedConstants(None, None), carry, tiles

    return Scan(step, arguments)


def forward(
    implementation: Implementation, **fields: int
) -> tuple[Callable[..., Any], tuple[Any, ...]]:
    """The scan alone.

    Args:
        implementation: of `fused_scan`.
        **fields: of `MemoryShape`.
    """
    shape = MemoryShape(**fields)
    scan = kernel_scan(shape)

    def fn(*arguments: Any) -> Any:
        return fused_scan(scan.step, *arguments, implementation=implementation)

    return fn, jax.eval_shape(scan.arguments, abstract_inputs(shape))


def forward_and_backward(
    implementation: Implementation, checkpoint_every: int | None = None, **fields: int
) -> tuple[Callable[..., Any], tuple[Any, ...]]:
    """The scan and its vector-Jacobian product.

    Args:
        implementation: of `fused_scan`.
        checkpoint_every: of `fused_scan`.
        **fields: of `MemoryShape`.
    """
    shape = MemoryShape(**fields)
    scan = kernel_scan(shape)

    def scanned(*arguments: Any) -> Any:
        return fused_scan(
            scan.step,
            *arguments,
            implementation=implementation,
            checkpoint_every=checkpoint_every,
            saved_dtype=SAVED_DTYPE,
        )

    def fn(arguments: Any, cotangents: Any) -> Any:
        out, vjp = jax.vjp(scanned, *arguments)
        return out, vjp(cotangents)

    arguments = jax.eval_shape(scan.arguments, abstract_inputs(shape))
    return fn, (arguments, jax.eval_shape(scanned, *arguments))
