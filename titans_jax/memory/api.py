"""`memory_scan`: the one entry point to the memory; every execution gives the same numbers.

    sequential         token by token, Eq. 12-15 with ``jax.grad``: the oracle
    token              a single token, its gradient by hand: decoding
    chunked            ``lax.scan`` over tiles in the dual form: the default on CPU and GPU
    fused              the same in one kernel, M and S on the chip: the default on a TPU
    associative_scan   parallel within a chunk; also for any pure function as the memory network

Layers know only this function and never which execution ran.
"""

from typing import Literal, get_args

import jax
import jax.numpy as jnp

from titans_jax.memory.dual import Carry
from titans_jax.memory.executions.sequential import sequential_scan
from titans_jax.memory.executions.tiled import tiled_scan
from titans_jax.memory.executions.token import token_step
from titans_jax.memory.gates import Gates, mask_gates
from titans_jax.memory.rule import Rule
from titans_jax.memory.state import MemoryState
from titans_jax.tiles.scan import platform_execution
from titans_jax.typing import Heads, TokenFlags

Execution = Literal["auto", "sequential", "token", "associative_scan", "chunked", "fused"]


def memory_scan(
    rule: Rule,
    state: MemoryState,
    q: Heads,
    k: Heads,
    v: Heads,
    gates: Gates,
    *,
    chunk: int,
    tile: int | None = None,
    mask: TokenFlags | None = None,
    reset: TokenFlags | None = None,
    initial: Carry | None = None,
    execution: Execution = "auto",
    aligned: bool = False,
) -> tuple[Heads, MemoryState]:
    """Writes a batch of sequences into their memories and reads them at every token.

    Args:
        rule: the inner step.
        state: the memories before the first token.
        q: queries, ``[B, T, H, K]``.
        k: keys, alike.
        v: values, alike.
        gates: fields ``[B, T, H]``.
        chunk: tokens that share one gradient anchor, the paper's b. Changes what is computed.
        tile: tokens per matmul. Does not change what is computed. None: chosen.
        mask: False for padding: an identity step, though it keeps its place in the chunk.
        reset: True where a document starts, which must be a chunk's first token; the memory
            returns to ``initial`` there. Elsewhere in a chunk the result is undefined.
        initial: M and S at a document's start, pytrees of ``[H, ...]``; needed with ``reset``.
        execution: one of the above, or "auto".
        aligned: the caller's promise that ``state.position`` is zero, as in a fresh state: saves
            the shift of the tokens on the chunk grid.

    Returns:
        The reads ``[B, T, H, K]`` and the state after the last token.

    Raises:
        ValueError: for shapes or settings that do not fit, naming the argument.
    """
    _check(rule, state, q, k, v, gates, chunk, tile, mask, reset, initial)
    execution = choose_execution(rule, execution, q.shape[1])
    if mask is not None:
        gates = mask_gates(gates, mask)
    arguments = (rule, state, q, k, v, gates, mask, reset, initial)
    if execution == "sequential":
        return sequential_scan(*arguments, chunk=chunk)
    if execution == "token":
        return token_step(*arguments, chunk=chunk)
    return tiled_scan(*arguments, chunk=chunk, tile=tile, aligned=aligned, execution=execution)


def choose_execution(rule: Rule, execution: Execution, length: int) -> Execution:
    """Resolves "auto", and refuses an execution that cannot run what it is asked to.

    Args:
        rule: the inner step.
        execution: what is asked for.
        length: tokens of the call.

    Raises:
        ValueError: naming the execution and what it needs.
    """
    if execution not in get_args(Execution):
        raise ValueError(f"execution must be one of {get_args(Execution)}, got {execution!r}")
    if execution == "auto":
        if length == 1:
            return "token" if rule.dense else "sequential"
        return platform_execution() if rule.dense else "associative_scan"
    if execution == "token" and length != 1:
        raise ValueError(f"execution 'token' takes one token at a time, got {length}")
    if execution in ("token", "chunked", "fused") and not rule.dense:
        raise ValueError(
            f"execution {execution!r} needs a built-in network ('mlp' or 'residual'); "
            "a function runs by 'associative_scan' or 'sequential'"
        )
    return execution


def _check(rule, state, q, k, v, gates, chunk, tile, mask, reset, initial):
    """Refuses what does not fit, before anything is compiled."""
    if not isinstance(chunk, int) or isinstance(chunk, bool) or chunk < 1:
        raise ValueError(f"chunk must be a positive integer, got {chunk!r}")
    if tile is not None and (not isinstance(tile, int) or isinstance(tile, bool) or tile < 1):
        raise ValueError(f"tile must be a positive integer or None, got {tile!r}")
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
    if rule.dense:
        network, gain = rule.network, rule.gain
        expected = [(batch, heads, *shape) for shape in network.shapes(q.shape[-1])]
        actual = [leaf.shape for leaf in jax.tree.leaves(state.weights)]
        if actual != expected:
            raise ValueError(
                f"state.weights must be {expected} for {network} and heads of {q.shape[-1]} "
                f"features, got {actual}"
            )
        if gain is not None and gain.shape != (heads, 1, q.shape[-1]):
            raise ValueError(
                f"rule.gain must be [H, 1, K] = {(heads, 1, q.shape[-1])}, got shape {gain.shape}"
            )
        if (network.kind == "residual") != (gain is not None):
            raise ValueError(
                f"rule.gain must be given for network 'residual' and only there, got network "
                f"{network.kind!r} with gain {'None' if gain is None else gain.shape}"
            )
    _check_like_weights("state.momentum", state.momentum, state.weights, 0)
    _check_like_weights("state.anchor", state.anchor, state.weights, 0)
    if rule.base is not None:
        _check_like_weights("rule.base", rule.base, state.weights, 1)
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

    Args:
        shape: ``(B, T)``.
        **flags: the flags by name; None: there are none.

    Raises:
        ValueError: naming the flag.
    """
    for name, x in flags.items():
        if x is not None and (x.shape != shape or x.dtype != jnp.bool_):
            raise ValueError(f"{name} must be bool [B, T] = {shape}, got {x.dtype} {x.shape}")
