"""`memory_scan`: the one entry point to the memory; every execution gives the same numbers.

    sequential         token by token, Eq. 12-15 with ``jax.grad``: the oracle
    token              a single token, its gradient by hand: decoding
    chunked            ``lax.scan`` over chunks in the dual form: the default on CPU and GPU
    fused              the same in one kernel, M and S on the chip: the default on a TPU
    associative_scan   parallel within a chunk; also for any pure function as the memory network
    online             chunk 1 with a linear memory, solved tile by tile

Layers know only this function and never which execution ran.
"""

from typing import Literal, get_args

import jax
import jax.numpy as jnp
from jaxtyping import Float

from titans_jax.memory.chunk import Carry
from titans_jax.memory.chunked import GridTokens, chunked_scan
from titans_jax.memory.fused import fused_chunk_scan
from titans_jax.memory.gates import Gates, Read, mask_gates
from titans_jax.memory.grid import (
    completed_chunks,
    from_grid,
    grid_mask,
    make_grid,
    to_grid,
)
from titans_jax.memory.networks import MLPNetwork, NetworkFunction, network_function
from titans_jax.memory.online import online_scan
from titans_jax.memory.scan import associative_chunk_scan
from titans_jax.memory.sequential import TokenState, sequential_scan
from titans_jax.memory.state import MemoryState
from titans_jax.memory.token import token_step
from titans_jax.placement import target_platform
from titans_jax.typing import Array, Heads, TokenFlags

Execution = Literal["auto", "sequential", "token", "associative_scan", "chunked", "fused", "online"]

#: Executions that walk the chunk grid with one anchor per chunk.
SCANS = {
    "chunked": chunked_scan,
    "fused": fused_chunk_scan,
    "associative_scan": associative_chunk_scan,
}

#: Beyond this many tokens the [R, R] matrices of a tile cost more than they save; a kernel also has the state
#: of a tile to write, and the matrix units' operands to change.
LARGEST_TILE, LARGEST_FUSED_TILE = 128, 256


def memory_scan(
    network: MLPNetwork | NetworkFunction,
    state: MemoryState,
    q: Heads,
    k: Heads,
    v: Heads,
    gates: Gates,
    *,
    chunk: int,
    gain: Float[Array, "H K"] | None = None,
    tile: int | None = None,
    mask: TokenFlags | None = None,
    reset: TokenFlags | None = None,
    initial: Carry | None = None,
    read: Read = "after",
    bound_step: bool = False,
    execution: Execution = "auto",
    aligned: bool = False,
) -> tuple[Heads, MemoryState]:
    """Writes a batch of sequences into their memories and reads them at every token.

    Args:
        network: the memory network; any pure function for "associative_scan" and "sequential".
        state: the memories before the first token.
        q: queries; k: keys; v: values, ``[B, T, H, K]``.
        gates: fields ``[B, T, H]``.
        chunk: tokens that share one gradient anchor, the paper's b. Changes what is computed.
        gain: gain of the "residual" network's norm.
        tile: tokens per matmul. Does not change what is computed. None: chosen.
        mask: False for padding: an identity step, though it keeps its place in the chunk.
        reset: True where a document starts, which must be a chunk's first token; the memory
            returns to ``initial`` there. Elsewhere in a chunk the result is undefined.
        initial: M and S at a document's start, pytrees of ``[H, ...]``; needed with ``reset``.
        read: y_t from M_t ("after") or M_{t-1} ("before").
        bound_step: divide a token's gradient by max(1, its curvature): keeps a deep memory stable
            whatever its weights (networks.py). A linear memory needs no bound and gets none.
        execution: one of the above, or "auto".
        aligned: the caller's promise that ``state.position`` is zero, as in a fresh state: saves
            the shift of the tokens on the chunk grid.

    Returns:
        The reads ``[B, T, H, K]`` and the state after the last token.

    Raises:
        ValueError: for shapes or settings that do not fit, naming the argument.
    """
    _check(network, state, q, k, v, gates, chunk, gain, tile, mask, reset, initial, read)
    execution = choose_execution(network, execution, q.shape[1], chunk, reset)
    bound_step = bound_step and not (isinstance(network, MLPNetwork) and network.linear)
    if mask is not None:
        gates = mask_gates(gates, mask)
    gain = None if gain is None else gain[:, None, :]
    if execution == "sequential":
        return _run_sequential(
            network, state, (q, k, v, gates), chunk, gain, mask, reset, initial, read, bound_step
        )
    if execution == "token":
        options = {"chunk": chunk, "read": read, "bound_step": bound_step}
        return token_step(network, gain, state, q, k, v, gates, mask, reset, initial, **options)
    online = execution == "online"
    largest = LARGEST_FUSED_TILE if execution == "fused" else LARGEST_TILE
    tile = tile or _choose_tile(q.shape[1] if online else chunk, largest)
    batch, length = q.shape[:2]
    grid = make_grid(
        length, tile if online else chunk, tile, None if aligned or online else state.position
    )

    def on_grid(x):
        return None if x is None else to_grid(grid, x)

    settled = online or (aligned and length % chunk == 0)
    tokens = GridTokens(
        *(on_grid(x) for x in (q, k, v)),  # [N, tiles, B, R, H, K]
        Gates(*(on_grid(g) for g in gates)),
        grid_mask(grid, mask, batch),
        None if reset is None else on_grid(reset)[:, 0, :, 0],
        None if settled else completed_chunks(grid, batch),
    )
    carry = Carry(state.weights, state.momentum)
    if online:
        carry, y = online_scan(network, carry, tokens, read=read)
        anchor = carry.weights
    else:
        scan = SCANS[execution]
        carry, anchor, y = scan(
            network, gain, carry, state.anchor, tokens, initial, read=read, bound_step=bound_step
        )
    y = from_grid(grid, y)
    position = state.position if settled else (state.position + length) % chunk
    return y, MemoryState(carry.weights, carry.momentum, anchor, position)


def _run_sequential(network, state, tokens, chunk, gain, mask, reset, initial, read, bound_step):
    def one_head(gain, carry, anchor, position, tokens, mask, reset, initial):
        return sequential_scan(
            network_function(network, gain),
            TokenState(carry, anchor, position),
            *tokens,
            mask,
            reset,
            initial,
            chunk=chunk,
            read=read,
            bound_step=bound_step,
        )

    heads = jax.vmap(
        one_head, in_axes=(0, 0, 0, None, 1, None, None, 0), out_axes=(TokenState(0, 0, None), 1)
    )
    batched = jax.vmap(heads, in_axes=(None, 0, 0, 0, 0, 0, 0, None))
    after, y = batched(
        gain,
        Carry(state.weights, state.momentum),
        state.anchor,
        state.position,
        tokens,
        mask,
        reset,
        initial,
    )
    return y, MemoryState(after.carry.weights, after.carry.momentum, after.anchor, after.position)


def choose_execution(
    network: MLPNetwork | NetworkFunction,
    execution: Execution,
    length: int,
    chunk: int,
    reset: TokenFlags | None = None,
) -> Execution:
    """Resolves "auto", and refuses an execution that cannot run what it is asked to.

    Raises:
        ValueError: naming the execution and what it needs.
    """
    dense = isinstance(network, MLPNetwork)
    linear = dense and network.linear
    if execution not in get_args(Execution):
        raise ValueError(f"execution must be one of {get_args(Execution)}, got {execution!r}")
    if execution == "auto":
        if length == 1:
            return "token" if dense else "sequential"
        if not dense:
            return "associative_scan"
        if chunk == 1 and linear and reset is None:
            return "online"
        return "fused" if target_platform() == "tpu" else "chunked"
    if execution == "token" and length != 1:
        raise ValueError(f"execution 'token' takes one token at a time, got {length}")
    if execution in ("token", "chunked", "fused") and not dense:
        raise ValueError(
            f"execution {execution!r} needs a built-in network ('mlp' or 'residual'); "
            "a function runs by 'associative_scan' or 'sequential'"
        )
    if execution == "online" and not (chunk == 1 and linear and reset is None):
        raise ValueError(
            "execution 'online' needs chunk=1, network 'mlp' of depth 1 and no reset, got "
            f"chunk={chunk}, network={network!r}, reset {'given' if reset is not None else 'None'}"
        )
    return execution


def _choose_tile(chunk: int, largest: int) -> int:
    if chunk <= largest:
        return chunk
    divisors = [r for r in range(largest // 2, largest + 1) if chunk % r == 0]
    return divisors[-1] if divisors else largest


def _check(network, state, q, k, v, gates, chunk, gain, tile, mask, reset, initial, read):
    """Refuses what does not fit, before anything is compiled."""
    if not isinstance(chunk, int) or isinstance(chunk, bool) or chunk < 1:
        raise ValueError(f"chunk must be a positive integer, got {chunk!r}")
    if tile is not None and (not isinstance(tile, int) or isinstance(tile, bool) or tile < 1):
        raise ValueError(f"tile must be a positive integer or None, got {tile!r}")
    if read not in get_args(Read):
        raise ValueError(f"read must be 'after' or 'before', got {read!r}")
    if q.ndim != 4 or q.shape[1] == 0:
        raise ValueError(f"q must be [B, T, H, K] with T >= 1, got shape {q.shape}")
    batch, length, heads, _ = q.shape
    for name, x in (("k", k), ("v", v)):
        if x.shape != q.shape:
            raise ValueError(f"{name} must have q's shape {q.shape}, got {x.shape}")
    for name, x in gates._asdict().items():
        if x is not None and x.shape != (batch, length, heads):
            raise ValueError(
                f"gates.{name} must be [B, T, H] = {(batch, length, heads)}, got shape {x.shape}"
            )
    check_flags((batch, length), mask=mask, reset=reset)
    for name in ("weights", "momentum", "anchor"):
        for leaf in jax.tree.leaves(getattr(state, name)):
            if leaf.shape[:2] != (batch, heads):
                raise ValueError(
                    f"state.{name} must have leading axes [B, H] = {(batch, heads)}, "
                    f"got shape {leaf.shape}"
                )
    if state.position.shape != (batch,):
        raise ValueError(f"state.position must be [B] = ({batch},), got {state.position.shape}")
    if reset is not None and initial is None:
        raise ValueError("reset needs initial, the M and S at a document's start; got None")
    if isinstance(network, MLPNetwork):
        expected = [(batch, heads, *shape) for shape in network.shapes(q.shape[-1])]
        actual = [leaf.shape for leaf in jax.tree.leaves(state.weights)]
        if actual != expected:
            raise ValueError(
                f"state.weights must be {expected} for {network} and heads of {q.shape[-1]} "
                f"features, got {actual}"
            )
        if gain is not None and gain.shape != (heads, q.shape[-1]):
            raise ValueError(
                f"gain must be [H, K] = {(heads, q.shape[-1])}, got shape {gain.shape}"
            )
        if (network.kind == "residual") != (gain is not None):
            raise ValueError(
                f"gain must be given for network 'residual' and only there, got network "
                f"{network.kind!r} with gain {'None' if gain is None else gain.shape}"
            )
    _check_like_weights("state.momentum", state.momentum, state.weights, 0)
    _check_like_weights("state.anchor", state.anchor, state.weights, 0)
    if reset is not None:
        _check_like_weights("initial.weights", initial.weights, state.weights, 1)
        _check_like_weights("initial.momentum", initial.momentum, state.weights, 1)


def _check_like_weights(name, tree, weights, without):
    """Refuses a pytree that has not the weights' structure and shapes, less some leading axes."""
    expected = jax.tree.map(lambda leaf: leaf.shape[without:], weights)
    actual = jax.tree.map(lambda leaf: leaf.shape, tree)
    if actual != expected:
        raise ValueError(f"{name} must have the shapes {expected} of the weights, got {actual}")


def check_flags(shape: tuple[int, ...], **flags: TokenFlags | None) -> None:
    """Refuses a mask or reset that is not one bool per token.

    Raises:
        ValueError: naming the flag.
    """
    for name, x in flags.items():
        if x is not None and (x.shape != shape or x.dtype != jnp.bool_):
            raise ValueError(f"{name} must be bool [B, T] = {shape}, got {x.dtype} {x.shape}")
