"""The programs that the report compiles, by name (compile.py): the memory under `fused_scan`, and its plain form."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from experiments.kernel_report.shapes import GROUPS, MemoryShape
from pallas_kernels import fused_scan
from pallas_kernels.fused_scan.api import Implementation
from titans_jax.memory import Carry, Gates, MLPNetwork, Rule
from titans_jax.memory.dual import Tile
from titans_jax.memory.executions.tiled import kernel_step, saved_dtype, scan_step
from titans_jax.memory.gates import summed
from titans_jax.typing import Array


class Inputs(NamedTuple):
    """Tokens of G groups in N tiles, and their memories before the first: arrays, or their shapes.

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


#: Factor on the steps below the exact last layer.
LOWER_STEP = 0.1
#: The dtype in which the memory saves its carries for backward, its tokens being bfloat16.
SAVED_DTYPE = saved_dtype(jnp.dtype(jnp.bfloat16))


class Scan(NamedTuple):
    """What `fused_scan` runs: its step, and its arguments (consts, carry, xs) from the inputs."""

    step: Callable[..., Any]
    arguments: Callable[[Inputs], tuple[Any, Any, Any]]


def rule_of(shape: MemoryShape) -> Rule:
    """The memory's rule: that of the presets, or with the last layer exact."""
    network = MLPNetwork("mlp", shape.depth, shape.expansion)
    if shape.anchor == "chunk":
        return Rule(network, bound="gradient")
    return Rule(network, anchor=shape.anchor, bound="features", lower_step=LOWER_STEP)


def abstract_inputs(shape: MemoryShape, groups: int = GROUPS) -> Inputs:
    """Shapes and dtypes of training: bfloat16 tokens, float32 gates and state."""
    network = rule_of(shape).network

    def array(*dims: int, dtype: Any = jnp.float32) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct((groups, *dims), dtype)

    tokens = array(shape.tiles, shape.tile, shape.d_head, dtype=jnp.bfloat16)
    gate = array(shape.tiles, shape.tile)
    weights = tuple(array(*layer) for layer in network.shapes(shape.d_head))
    gates: Any = (gate, gate, gate)
    return Inputs(tokens, tokens, tokens, Gates(*gates), weights, weights)


def plain_scan(shape: MemoryShape) -> Scan:
    """The step in the state's dtype: the algebra as it is written down, whatever the kernel makes of it.

    Args:
        shape: of the memory.
    """

    def step(consts: Any, carry: Any, tile: Tile) -> tuple[Any, Array]:
        carry, y = scan_step(consts, carry, tile)
        return carry, y.astype(tile.q.dtype)

    return Scan(step, lambda inputs: _arguments(shape, inputs))


def kernel_scan(shape: MemoryShape) -> Scan:
    """The memory as titans_jax gives it to `fused_scan`.

    Args:
        shape: of the memory.
    """
    return Scan(kernel_step, lambda inputs: _arguments(shape, inputs))


def _arguments(shape: MemoryShape, inputs: Inputs) -> tuple[Any, Any, Tile]:
    sums = summed(jax.tree.map(lambda g: g[..., None], inputs.gates))  # [G, N, C, 1]
    rows = jax.tree.map(lambda g: g[:, :, None, :, 0], sums)  # [G, N, 1, C]
    # Where a chunk has several tiles, its anchor is carried and moves after the last of them.
    several, settles = shape.tile < shape.chunk, None
    if several:
        groups, tiles = inputs.q.shape[:2]
        last = (jnp.arange(1, tiles + 1) * shape.tile) % shape.chunk == 0
        settles = jnp.broadcast_to(
            last[:, None, None].astype(rows.theta.dtype), (groups, tiles, 1, 1)
        )
    state = (Carry(inputs.weights, inputs.momentum), inputs.weights if several else None)
    tokens = Tile(inputs.q, inputs.k, inputs.v, rows, settles=settles)
    return (rule_of(shape), None), state, tokens


def forward(
    implementation: Implementation, **fields: Any
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
    implementation: Implementation, checkpoint_every: int | None = None, **fields: Any
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
