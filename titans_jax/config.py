"""Configuration of the library: frozen dataclasses, checked when they are made."""

from __future__ import annotations

import dataclasses
from typing import Literal, get_args

from titans_jax.memory.api import Execution, choose_execution
from titans_jax.memory.gates import Read
from titans_jax.memory.networks import MLPNetwork, NetworkFunction


def require(condition: bool, field: str, value: object, wanted: str) -> None:
    """Raises a ValueError that names the field, its value and what would be right."""
    if not condition:
        raise ValueError(f"{field} must be {wanted}, got {value!r}")


def is_count(value: object, least: int = 1) -> bool:
    """Whether a value is an integer (no bool) of at least ``least``."""
    return isinstance(value, int) and not isinstance(value, bool) and value >= least


@dataclasses.dataclass(frozen=True)
class MemoryConfig:
    """One layer of neural long-term memory.

    Attributes:
        num_heads: independent memories; each has ``dim / num_heads`` features.
        network: "mlp" (plain), "residual" (x + gain * LayerNorm(MLP(x))), or a pure function
            ``(weights, x [K]) -> y [K]``.
        depth: layers of the memory network, L_M; at least 2 is a deep memory.
        expansion: hidden width over head dimension.
        chunk: tokens that share one gradient anchor (the paper's b). Changes what is computed.
        tile: tokens per matmul; changes nothing but the speed. None: chosen.
        gates: alpha, eta and theta as functions of each "token", or one set per "chunk", made from
            the mean input of the chunk before (its own would see the future).
        momentum: False for eta = 0.
        forget: False for alpha = 0.
        conv_width: taps of the convolutions after the q, k, v projections; 0 for none.
        read: y_t = M_t(q_t) ("after" its own write) or M_{t-1}(q_t) ("before").
        output_gate: multiply the normalised reads by a SiLU linear gate of the input.
        step_scale: c in theta = (c / chunk)(1 - eta) sigmoid(.); stable by construction near 0.6.
        execution: see `titans_jax.memory.api`.
    """

    num_heads: int = 4
    network: Literal["mlp", "residual"] | NetworkFunction = "mlp"
    depth: int = 2
    expansion: int = 2
    chunk: int = 64
    tile: int | None = None
    gates: Literal["token", "chunk"] = "token"
    momentum: bool = True
    forget: bool = True
    conv_width: int = 4
    read: Read = "after"
    output_gate: bool = True
    step_scale: float = 0.64
    execution: Execution = "auto"

    def __post_init__(self):
        require(is_count(self.num_heads), "num_heads", self.num_heads, "a positive integer")
        require(is_count(self.chunk), "chunk", self.chunk, "a positive integer")
        require(
            self.tile is None or is_count(self.tile),
            "tile",
            self.tile,
            "a positive integer or None",
        )
        require(self.gates in ("token", "chunk"), "gates", self.gates, "'token' or 'chunk'")
        require(
            is_count(self.conv_width, 0), "conv_width", self.conv_width, "an integer, 0 for none"
        )
        require(self.read in get_args(Read), "read", self.read, f"one of {get_args(Read)}")
        require(self.step_scale > 0, "step_scale", self.step_scale, "a positive number")
        choose_execution(self.memory_network(), self.execution, 2, self.chunk)

    def memory_network(self) -> MLPNetwork | NetworkFunction:
        """The network in the form that the memory's functions take."""
        if callable(self.network):
            return self.network
        return MLPNetwork(self.network, self.depth, self.expansion)
