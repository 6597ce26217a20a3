"""Configuration of the library: frozen dataclasses, checked when they are made."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, Literal, get_args

import jax.numpy as jnp

from titans_jax.fields import (
    check_fields,
    field,
    finite,
    flag,
    instance_of,
    non_negative,
    non_negative_int,
    number,
    one_of,
    optional,
    positive,
    positive_int,
    require,
    whole,
)
from titans_jax.memory.api import Execution, choose_execution
from titans_jax.memory.networks import NETWORK_DEPTH, MLPNetwork, NetworkKind
from titans_jax.memory.rule import Anchor, Bound, NetworkFunction, Read, Rule
from titans_jax.typing import Array, PyTree

Variant = Literal[
    "mac",
    "mag",
    "mal",
    "lmm",
    "transformer",
    "linear_attention",
    "retnet",
    "gla",
    "mamba2",
    "deltanet",
    "gated_deltanet",
    "ttt_linear",
    "ttt_mlp",
    "samba",
    "gated_deltanet_h2",
]
#: Variants with a neural memory, and those with attention.
MEMORY_VARIANTS = ("mac", "mag", "mal", "lmm")
ATTENTION_VARIANTS = ("mac", "mag", "mal", "transformer", "samba", "gated_deltanet_h2")
#: Features of all keys and of all values of a recurrence over the model dimension, as published.
EXPANSIONS: dict[str, tuple[float, float]] = {
    "linear_attention": (1.0, 1.0),
    "retnet": (1.0, 2.0),
    "gla": (0.5, 1.0),
    "mamba2": (0.0, 2.0),  # its keys have state_size features
    "deltanet": (1.0, 1.0),
    "gated_deltanet": (0.75, 1.5),
    "ttt_linear": (1.0, 1.0),
    "ttt_mlp": (1.0, 1.0),
}
#: Recurrences of the variants that are not one themselves.
HYBRIDS = {"samba": ("mamba2",), "gated_deltanet_h2": ("mamba2", "gated_deltanet")}
Combine = Literal["mutual", "sigmoid", "silu"]
ActivationDtype = Literal["float32", "bfloat16", "float64"]
GateInput = Literal["token", "chunk"]
ForgetTo = Literal["zero", "start"]
WeightsStart = Literal["plain", "features"]

_WINDOW = "a positive integer (None, full attention, is for the transformer only)"
_expansion = number("a positive number, or 0 for the published one", least=0)


def _window(name: str, value: Any) -> int | None:
    return None if value is None else whole(_WINDOW, 1)(name, value)


def _network(name: str, value: Any) -> Any:
    fits = callable(value) or value in get_args(NetworkKind)
    require(fits, name, value, "'mlp', 'residual' or a function")
    return value


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
        anchor: where gradients are taken: at the "chunk"'s start (Eq. 16), or with the last layer's error that of the
            memory just before each "token" (rule.py).
        bound: what bounds a token's step, so that a deep memory stays stable however its weights grow: "none", its
            "gradient"'s curvature, or that of the last layer's "features" alone.
        lower_step: factor on the steps of a built-in network's layers below the last.
        step_scale: c in theta = s (1 - eta) sigmoid(.), with s = c at ``anchor="token"``, c / chunk at "chunk". A
            linear memory may write twice the s of what it does not know of a token; facts that replace older ones need
            about the whole, which at "chunk" is stable where chunks are short.
        step_bias: initial bias of theta's logit; -2 writes 0.12 of the largest step of every token. At 0 a memory
            begins with half of it; far below, training opens it for what is worth writing.
        forget_to: what a memory decays to where it forgets: the learned M_0, its "start", or "zero" (Eq. 13).
        forget_bias: initial bias of alpha's logit; -9 forgets 1.2e-4 of a token, -6 0.0025, -4 0.018. Towards zero
            forgetting must start slower than learning: M = 0 is a saddle of a deep memory, from which no gradient leads
            away, and with alpha = 0.01 an untrained memory of depth 2 has a norm of 1e-12 after 4096 tokens, one of
            depth 4 of 1e-17.
        weights_start: what a built-in network's M_0 begins as. "plain": every layer of deviation 1 / sqrt(d_in). Keys
            have unit norm, so that hidden layers then see inputs of deviation 1 / sqrt(K), where SiLU is nearly linear.
            "features": hidden layers scaled to inputs of deviation 1, and a last layer of zeros: an empty memory
            recalls nothing.
        execution: see `titans_jax.memory.api`.
    """

    num_heads: int = field(4, positive_int)
    network: NetworkKind | NetworkFunction = field("mlp", _network)
    depth: int = field(2, NETWORK_DEPTH)
    expansion: int = field(2, positive_int)
    chunk: int = field(64, positive_int)
    tile: int | None = field(None, optional(positive_int))
    gates: GateInput = field("token", one_of(GateInput))
    momentum: bool = field(True, flag)
    forget: bool = field(True, flag)
    conv_width: int = field(4, non_negative_int)
    read: Read = field("after", one_of(Read))
    output_gate: bool = field(True, flag)
    step_scale: float = field(1.0, positive)
    step_bias: float = field(-2.0, finite)
    anchor: Anchor = field("token", one_of(Anchor))
    bound: Bound = field("features", one_of(Bound))
    lower_step: float = field(0.1, non_negative)
    forget_to: ForgetTo = field("start", one_of(ForgetTo))
    forget_bias: float = field(-6.0, finite)
    weights_start: WeightsStart = field("features", one_of(WeightsStart))
    execution: Execution = field("auto", one_of(Execution))

    def __post_init__(self) -> None:
        check_fields(self)
        rule = self.rule()
        if self.execution != "auto":  # which always fits, and would start JAX to see where it runs
            choose_execution(rule, self.execution, 2)

    def rule(self, gain: Array | None = None, base: PyTree | None = None) -> Rule:
        """The inner step.

        Args:
            gain: gain of the "residual" network's norm, ``[H, 1, K]``.
            base: M_0, to which the memory decays with ``forget_to="start"``.
        """
        kind = self.network
        return Rule(
            kind if callable(kind) else MLPNetwork(kind, self.depth, self.expansion),
            anchor=self.anchor,
            read=self.read,
            bound=self.bound,
            lower_step=self.lower_step,
            gain=gain,
            base=base if self.forget and self.forget_to == "start" else None,
        )


#: The rule of version 0.1 as fields of a `MemoryConfig`: Eq. 16's anchor, forgetting towards zero. Files and results of
#: that time have it.
RULE_OF_0_1: dict[str, Any] = {
    "step_scale": 0.64,
    "step_bias": 0.0,
    "anchor": "chunk",
    "bound": "gradient",
    "lower_step": 1.0,
    "forget_to": "zero",
    "forget_bias": -9.0,
    "weights_start": "plain",
}


def memory_fields(written: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of a `MemoryConfig` that a file holds, with those that files of version 0.1 do not have.

    Args:
        written: the fields in the file; those of 0.1 had ``bound_step``, a flag, for ``bound``.
    """
    fields = dict(written)
    if "bound_step" in fields:
        bound = "gradient" if fields.pop("bound_step") else "none"
        fields = RULE_OF_0_1 | {"bound": bound} | fields
    return fields


@dataclasses.dataclass(frozen=True)
class RecurrenceConfig:
    """The recurrence of a baseline (titans_jax.baselines).

    Attributes:
        num_heads: heads; a divisor of the features of its keys and of its values.
        chunk: tokens per step of the chunk-parallel form; changes nothing but the speed.
        conv_width: taps of the convolutions of Mamba-2, the DeltaNets and TTT; 0 for none.
        key_expansion: features of all keys over ``dim``; 0 for the published (`EXPANSIONS`).
        value_expansion: features of all values over ``dim``; 0 for the published.
        state_size: features of a key of Mamba-2.
        groups: of Mamba-2's heads, each of which shares its keys and queries.
        mini_batch: tokens of TTT that share one gradient anchor. Changes what is computed.
        step_bias: what the bias of the logit of a write begins with: beta of the DeltaNets, eta of TTT. At 0 the
            published: the DeltaNets have no such bias, TTT's begins at 0.
        execution: "chunked" (``lax.scan``), "fused" (a kernel), or "auto": by the platform.
    """

    num_heads: int = field(4, positive_int)
    chunk: int = field(64, positive_int)
    conv_width: int = field(4, non_negative_int)
    key_expansion: float = field(0.0, _expansion)
    value_expansion: float = field(0.0, _expansion)
    state_size: int = field(64, positive_int)
    groups: int = field(1, positive_int)
    mini_batch: int = field(16, positive_int)
    step_bias: float = field(0.0, finite)
    execution: Literal["auto", "chunked", "fused"] = field(
        "auto", one_of(("auto", "chunked", "fused"))
    )

    def __post_init__(self) -> None:
        check_fields(self)
        require(
            self.num_heads % self.groups == 0,
            "groups",
            self.groups,
            f"a divisor of num_heads = {self.num_heads}",
        )


@dataclasses.dataclass(frozen=True)
class TitansConfig:
    """A language model: one of the four Titans, the Transformer++ baseline, or a recurrent one.

    Attributes:
        variant: "mac" (memory as context), "mag" (as gate), "mal" (as layer), "lmm" (memory alone),
            "transformer" (attention alone), or a recurrent baseline or hybrid by its name.
        vocab_size: tokens of the vocabulary.
        dim: model dimension.
        num_layers: blocks.
        num_heads: attention heads; the heads of the memory are ``memory.num_heads``.
        window: tokens that each token attends to, itself included (MAG, MAL, transformer, hybrids). None, for
            the transformer only, is full attention.
        segment: tokens per segment of MAC, a multiple of ``memory.chunk``.
        persistent_tokens: learned tokens before every sequence; 0 for none.
        feed_forward: hidden width of the SwiGLU layer after each mixer; 0 for none.
        memory: the neural memory.
        recurrence: the recurrence of a baseline.
        combine: how MAG and MAC join attention and memory, see models/combine.py.
        rope_base: base of the rotary embedding.
        tie_embeddings: whether the logits use the transposed embedding.
        dtype: dtype of the activations; parameters, statistics and fast weights stay in float32 at
            least. "float64", with ``jax_enable_x64``, is for tests.
        remat: whether the backward pass recomputes each block instead of keeping its activations.
    """

    variant: Variant = field("mac", one_of(Variant))
    vocab_size: int = field(256, positive_int)
    dim: int = field(256, positive_int)
    num_layers: int = field(4, positive_int)
    num_heads: int = field(4, positive_int)
    window: int | None = field(128, _window)
    segment: int = field(128, positive_int)
    persistent_tokens: int = field(4, non_negative_int)
    feed_forward: int = field(640, non_negative_int)
    memory: MemoryConfig = field(MemoryConfig(), instance_of(MemoryConfig))
    recurrence: RecurrenceConfig = field(RecurrenceConfig(), instance_of(RecurrenceConfig))
    combine: Combine = field("mutual", one_of(Combine))
    rope_base: float = field(10000.0, number("greater than 1", above=1))
    tie_embeddings: bool = field(True, flag)
    dtype: ActivationDtype = field("float32", one_of(ActivationDtype))
    remat: bool = field(False, flag)

    def __post_init__(self) -> None:
        check_fields(self)
        if self.has_memory:
            self._check_memory()
        if self.has_attention:
            self._check_attention()
        for name in self.recurrences:
            self._check_recurrence(name)

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
        optional_window = self.variant in ("mac", "transformer")
        require(self.window is not None or optional_window, "window", None, _WINDOW)

    def _check_recurrence(self, name: str) -> None:
        heads = self.recurrence.num_heads
        for kind, features in zip(
            ("key_expansion", "value_expansion"), self.recurrence_features(name), strict=True
        ):
            whole = features == int(features)
            require(
                whole and (kind == "key_expansion" or features > 0),
                f"recurrence.{kind}",
                getattr(self.recurrence, kind),
                f"such that {name} has a whole number of features with dim = {self.dim}",
            )
            require(
                features % heads == 0,
                "recurrence.num_heads",
                heads,
                f"a divisor of the {int(features)} features of {name}'s {kind.split('_')[0]}s",
            )
        keys = self.recurrence_features(name)[0]
        require(
            name != "retnet" or keys % (2 * heads) == 0,
            "recurrence.num_heads",
            heads,
            f"a divisor of {int(keys)} features into heads of even size (the rotation turns pairs)",
        )

    def recurrence_features(self, name: str) -> tuple[int, int]:
        """Features of all keys and of all values of a recurrence (of Mamba-2's, no keys: they have groups)."""
        published = EXPANSIONS[name]
        own = (self.recurrence.key_expansion, self.recurrence.value_expansion)
        if name in ("mamba2", "ttt_linear", "ttt_mlp"):
            own = (0.0, own[1] if name == "mamba2" else 0.0)
        keys, values = (
            (mine or theirs) * self.dim for mine, theirs in zip(own, published, strict=True)
        )
        whole = all(x == int(x) for x in (keys, values))
        return (int(keys), int(values)) if whole else (keys, values)  # type: ignore[return-value]

    @property
    def recurrences(self) -> tuple[str, ...]:
        """The recurrences of a block; none for Titans and the transformer."""
        return HYBRIDS.get(self.variant, (self.variant,) if self.variant in EXPANSIONS else ())

    @property
    def alignment(self) -> int:
        """Tokens between places where the state is a chunk's (MAC: a segment's, TTT: a mini-batch's) start."""
        if self.variant == "mac":
            return self.segment
        if self.variant in ("ttt_linear", "ttt_mlp"):
            return self.recurrence.mini_batch
        return self.memory.chunk if self.has_memory else 1

    @property
    def has_memory(self) -> bool:
        """Whether the model has a neural memory."""
        return self.variant in MEMORY_VARIANTS

    @property
    def has_attention(self) -> bool:
        """Whether the model has attention."""
        return self.variant in ATTENTION_VARIANTS

    @property
    def activation_dtype(self) -> jnp.dtype:
        """``dtype`` as a dtype."""
        return jnp.dtype(self.dtype)

    @property
    def residual_scale(self) -> float:
        """Factor on the initial deviation of projections into the residual stream: 1 / sqrt(2 L)."""
        return (2 * self.num_layers) ** -0.5
