"""Small random problems for the memory, and one compiled function per case and execution.

Everything that can vary without compiling anew (data, masks, resets, positions in the chunk) is an
argument; what cannot is a `Case`.
"""

import dataclasses
import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from titans_jax.memory import Carry, Gates, MemoryState, MLPNetwork, Rule, memory_scan
from titans_jax.memory.api import Execution

BATCH, LENGTH, HEADS, WIDTH = 2, 12, 2, 3


def gated_mlp(weights, x):
    """A network that the library does not know: SwiGLU, its weights a dict."""
    return (jax.nn.silu(x @ weights["gate"]) * (x @ weights["up"])) @ weights["down"]


@dataclasses.dataclass(frozen=True)
class Case:
    """What a compiled function is specialised for.

    Attributes:
        network: "mlp", "residual" or "gated" (a function given by the user).
        depth: layers, 1 to 4.
        chunk: of `LENGTH` tokens: 4 divides it, 5 does not.
        tile: tokens per matmul.
        read: "after" or "before".
        momentum: False: no eta.
        forget: False: no alpha.
        bound: what bounds the inner step, see `Rule`.
        anchor: see `Rule`.
        lower_step: see `Rule`.
        based: whether forgetting goes to some weights, not to zero.
        masked: whether there is a mask.
        resets: whether there are document starts.
        carried: whether the state is that of another call, in the middle of a chunk.
    """

    network: str = "mlp"
    depth: int = 2
    chunk: int = 4
    tile: int | None = None
    read: Any = "after"
    momentum: bool = True
    forget: bool = True
    bound: Any = "none"
    anchor: Any = "chunk"
    lower_step: float = 1.0
    based: bool = False
    masked: bool = False
    resets: bool = False
    carried: bool = False

    def __str__(self):
        words = [self.network + str(self.depth), f"chunk{self.chunk}"]
        words += [] if self.tile is None else [f"tile{self.tile}"]
        words += ["before"] if self.read == "before" else []
        words += [] if self.momentum else ["no_momentum"]
        words += [] if self.forget else ["no_forget"]
        words += [] if self.anchor == "chunk" else ["token"]
        words += [] if self.bound == "none" else [self.bound]
        words += [] if self.lower_step == 1.0 else [f"lower{self.lower_step}"]
        words += [name for name in ("based", "masked", "resets", "carried") if getattr(self, name)]
        return "-".join(words)

    @property
    def function(self):
        """The network as `memory_scan` takes it."""
        expansion = 1 if self.depth == 3 else 2
        return (
            gated_mlp
            if self.network == "gated"
            else MLPNetwork(self.network, self.depth, expansion)
        )


class Inputs(NamedTuple):
    """Everything that a gradient is taken of."""

    q: Any
    k: Any
    v: Any
    gates: Gates
    weights: Any
    momentum: Any
    anchor: Any
    initial: Carry | None
    gain: Any
    base: Any


class Flags(NamedTuple):
    """What has no gradient."""

    position: Any
    mask: Any
    reset: Any


def problem(case: Case, seed: int = 0, length: int = LENGTH) -> tuple[Inputs, Flags]:
    """Random inputs in float64; keys of about unit length, and steps too small to diverge."""
    rng = np.random.default_rng(seed)

    def unit():
        x = rng.normal(size=(BATCH, length, HEADS, WIDTH))
        return x / np.linalg.norm(x, axis=-1, keepdims=True)

    def fast_weights(*leading, scale=1.0):
        if case.network == "gated":
            shapes = {"gate": (WIDTH, 4), "up": (WIDTH, 4), "down": (4, WIDTH)}
            return {
                name: scale * rng.normal(size=(*leading, *shape)) / shape[0] ** 0.5
                for name, shape in shapes.items()
            }
        return tuple(
            scale * rng.normal(size=(*leading, *shape)) / shape[0] ** 0.5
            for shape in case.function.shapes(WIDTH)
        )

    def gate(low, high):
        return rng.uniform(low, high, size=(BATCH, length, HEADS))

    keep, eta, theta = gate(0.6, 1.0), gate(0.1, 0.95), gate(0.0, 0.1)
    weights = fast_weights(BATCH, HEADS)
    position = rng.integers(0, case.chunk, size=BATCH) if case.carried else np.zeros(BATCH, int)
    starts = (position[:, None] + np.arange(length)) % case.chunk == 0
    inputs = Inputs(
        q=unit(),
        k=unit() * rng.uniform(0.7, 1.4, size=(BATCH, length, HEADS, 1)),
        v=rng.normal(size=(BATCH, length, HEADS, WIDTH)),
        gates=Gates(
            np.log(keep) if case.forget else None, np.log(eta) if case.momentum else None, theta
        ),
        weights=weights,
        momentum=fast_weights(BATCH, HEADS, scale=0.3),
        anchor=fast_weights(BATCH, HEADS),
        initial=Carry(fast_weights(HEADS), fast_weights(HEADS, scale=0.3)) if case.resets else None,
        gain=rng.uniform(0.5, 1.5, size=(HEADS, 1, WIDTH)) if case.network == "residual" else None,
        base=fast_weights(HEADS) if case.based else None,
    )
    flags = Flags(
        position=position.astype(np.int32),
        mask=rng.random((BATCH, length)) < 0.7 if case.masked else None,
        reset=starts & (rng.random((BATCH, length)) < 0.6) if case.resets else None,
    )
    return jax.tree.map(jnp.asarray, (inputs, flags))


def apply(case: Case, execution: Execution, inputs: Inputs, flags: Flags):
    """`memory_scan`: the reads, M, S and anchor, and the position."""
    fresh = flags.position == 0  # where a chunk starts, its anchor is M

    def anchor_of(m, a):
        return jnp.where(fresh.reshape(-1, *(1,) * (m.ndim - 1)), m, a)

    state = MemoryState(
        inputs.weights,
        inputs.momentum,
        jax.tree.map(anchor_of, inputs.weights, inputs.anchor),
        flags.position,
    )
    rule = Rule(
        case.function,
        anchor=case.anchor,
        read=case.read,
        bound=case.bound,
        lower_step=case.lower_step,
        gain=inputs.gain,
        base=inputs.base,
    )
    y, state = memory_scan(
        rule,
        state,
        inputs.q,
        inputs.k,
        inputs.v,
        inputs.gates,
        chunk=case.chunk,
        tile=case.tile,
        mask=flags.mask,
        reset=flags.reset,
        initial=inputs.initial,
        execution=execution,
        aligned=not case.carried,
    )
    return (y, (state.weights, state.momentum, state.anchor)), state.position


@functools.cache
def forward(case: Case, execution: Execution):
    """Compiled ``(inputs, flags) -> ((y, state), position)``."""
    return jax.jit(functools.partial(apply, case, execution))


@functools.cache
def forward_and_backward(case: Case, execution: Execution):
    """Compiled ``(inputs, flags, cotangent) -> (y, state), position, gradients of all inputs``."""

    def run(inputs, flags, cotangent):
        results, pullback, position = jax.vjp(
            lambda x: apply(case, execution, x, flags), inputs, has_aux=True
        )
        return results, position, pullback(cotangent)[0]

    return jax.jit(run)


def random_like(tree, seed: int):
    """A random cotangent."""
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda x: jnp.asarray(rng.normal(size=x.shape), x.dtype), tree)
