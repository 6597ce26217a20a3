"""Configuration of the library: frozen dataclasses, checked when they are made."""

from __future__ import annotations

import dataclasses
from typing import Literal, get_args

import jax.numpy as jnp

from titans_jax.memory.api import Execution, choose_execution
from titans_jax.memory.gates import Read
from titans_jax.memory.networks import MLPNetwork, NetworkFunction

Variant = Literal["mac", "mag", "mal", "lmm", "transformer"]
Combine = Literal["silu", "sigmoid"]
ActivationDtype = Literal["float32", "bfloat16", "float64"]


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
        step_scale: c in theta = (c / chunk)(1 - eta) sigmoid(.).
        bound_step: divide a token's gradient by max(1, its curvature), so that the inner step of a
            deep memory stays stable however its weights grow; a linear memory needs no bound.
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
    bound_step: bool = True
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
        network = self.memory_network()
        if self.execution != "auto":  # which always fits, and would start JAX to see where it runs
            choose_execution(network, self.execution, 2, self.chunk)

    def memory_network(self) -> MLPNetwork | NetworkFunction:
        """The network in the form that the memory's functions take."""
        if callable(self.network):
            return self.network
        return MLPNetwork(self.network, self.depth, self.expansion)


@dataclasses.dataclass(frozen=True)
class TitansConfig:
    """A language model: one of the four Titans, or the Transformer++ baseline.

    Attributes:
        variant: "mac" (memory as context), "mag" (as gate), "mal" (as layer), "lmm" (memory alone)
            or "transformer" (attention alone).
        vocab_size: tokens of the vocabulary.
        dim: model dimension.
        num_layers: blocks.
        num_heads: attention heads; the heads of the memory are ``memory.num_heads``.
        window: tokens that each token attends to, itself included (MAG, MAL, transformer). None, for
            the transformer only, is full attention.
        segment: tokens per segment of MAC, a multiple of ``memory.chunk``.
        persistent_tokens: learned tokens before every sequence; 0 for none.
        feed_forward: hidden width of the SwiGLU layer after each mixer; 0 for none.
        memory: the neural memory.
        combine: activation of the normalised memory by which MAG and MAC gate the attention.
        rope_base: base of the rotary embedding.
        tie_embeddings: whether the logits use the transposed embedding.
        dtype: dtype of the activations; parameters, statistics and fast weights stay in float32 at
            least. "float64", with ``jax_enable_x64``, is for tests.
        remat: whether the backward pass recomputes each block instead of keeping its activations.
    """

    variant: Variant = "mac"
    vocab_size: int = 256
    dim: int = 256
    num_layers: int = 4
    num_heads: int = 4
    window: int | None = 128
    segment: int = 128
    persistent_tokens: int = 4
    feed_forward: int = 640
    memory: MemoryConfig = dataclasses.field(default_factory=MemoryConfig)
    combine: Combine = "sigmoid"
    rope_base: float = 10000.0
    tie_embeddings: bool = True
    dtype: ActivationDtype = "float32"
    remat: bool = False

    def __post_init__(self) -> None:
        for name, choices in (
            ("variant", get_args(Variant)),
            ("combine", get_args(Combine)),
            ("dtype", get_args(ActivationDtype)),
            ("tie_embeddings", (True, False)),
            ("remat", (True, False)),
        ):
            value = getattr(self, name)
            require(value in choices, name, value, f"one of {choices}")
        for name in ("vocab_size", "dim", "num_layers", "num_heads", "segment"):
            value = getattr(self, name)
            require(is_count(value), name, value, "a positive integer")
        for name in ("persistent_tokens", "feed_forward"):
            value = getattr(self, name)
            require(is_count(value, 0), name, value, "an integer, 0 for none")
        require(isinstance(self.memory, MemoryConfig), "memory", self.memory, "a MemoryConfig")
        require(self.rope_base > 1, "rope_base", self.rope_base, "greater than 1")
        if self.variant != "transformer":
            self._check_memory()
        if self.variant != "lmm":
            self._check_attention()

    def _check_memory(self) -> None:
        heads, chunk = self.memory.num_heads, self.memory.chunk
        require(self.dim % heads == 0, "memory.num_heads", heads, f"a divisor of dim = {self.dim}")
        require(
            not callable(self.memory.network),
            "memory.network",
            self.memory.network,
            "'mlp' or 'residual' in a language model; only a NeuralMemory takes a function",
        )
        if self.variant == "mac":
            require(
                self.segment % chunk == 0,
                "segment",
                self.segment,
                f"a multiple of memory.chunk = {chunk}",
            )

    def _check_attention(self) -> None:
        require(
            self.dim % (2 * self.num_heads) == 0,
            "num_heads",
            self.num_heads,
            f"a divisor of dim = {self.dim} into heads of even size (rotary embedding turns pairs)",
        )
        full = self.window is None and self.variant not in ("mag", "mal")
        require(
            full or is_count(self.window),
            "window",
            self.window,
            "a positive integer (None, full attention, is for the transformer only)",
        )

    @property
    def activation_dtype(self) -> jnp.dtype:
        """``dtype`` as a dtype."""
        return jnp.dtype(self.dtype)

    @property
    def residual_scale(self) -> float:
        """Factor on the initial deviation of projections into the residual stream: 1 / sqrt(2 L)."""
        return (2 * self.num_layers) ** -0.5
