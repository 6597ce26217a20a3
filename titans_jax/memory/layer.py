"""The memory as a layer: projections, gates, M_0, the scan, and the gated output (§3, §4.4).

q, k, v = l2(SiLU(conv(x W_Q))), l2(SiLU(conv(x W_K))), SiLU(conv(x W_V))       (Eq. 11, 15)
alpha, eta, theta = functions of x, one per head                               (§3.2)
y = W_O [ RMSNorm(M_t(q_t)) * SiLU(x W_G) ]                                     (§4.4)
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Float

from titans_jax.config import MemoryConfig
from titans_jax.fields import positive_int, require
from titans_jax.layers.convolution import CausalConv
from titans_jax.layers.linear import linear
from titans_jax.layers.norms import RMSNorm, l2_normalise, statistics_dtype
from titans_jax.memory.api import check_flags, memory_scan
from titans_jax.memory.diagnostics import Diagnostics, memory_diagnostics
from titans_jax.memory.dual import Carry
from titans_jax.memory.gates import Gates, gates_from_logits
from titans_jax.memory.networks import MLPNetwork
from titans_jax.memory.rule import Rule
from titans_jax.memory.state import MemoryState, fresh_state, no_momentum, skip_tokens
from titans_jax.placement import by_heads, by_sequences, heads_only
from titans_jax.registry import registered
from titans_jax.typing import Array, Heads, PyTree, TokenFlags

#: Initial bias of eta's logit; those of alpha and theta are the config's.
ETA_BIAS = 0.0

#: Deviation of SiLU of a standard normal number about zero: by its inverse a hidden layer is scaled that follows one.
SILU_DEVIATION = 0.597


@registered
class GateInput(NamedTuple):
    """What chunk-wise gates need of the past; zero-width where gates are per token.

    Attributes:
        previous: mean input of the chunk before the running one, ``[B, D]``.
        running: sum of the running chunk's inputs so far, over the chunk size, ``[B, D]``.
    """

    previous: Float[Array, "B D"]
    running: Float[Array, "B D"]


@registered
class NeuralMemoryState(NamedTuple):
    """Streaming state of the layer; every leaf has a leading batch axis."""

    memory: MemoryState
    conv_q: Float[Array, "B w-1 D"]
    conv_k: Float[Array, "B w-1 D"]
    conv_v: Float[Array, "B w-1 D"]
    gate_input: GateInput


class HeadProjection(nnx.Module):
    """Linear, causal depthwise convolution, SiLU, split into heads, and l2 norm for queries and keys."""

    def __init__(
        self,
        dim: int,
        num_heads: int,
        conv_width: int,
        *,
        normalise: bool = True,
        dtype=jnp.float32,
        rngs: nnx.Rngs,
    ):
        """Makes the projection.

        Args:
            dim: D.
            num_heads: H.
            conv_width: taps of the convolution, 0 for none.
            normalise: l2 norm per head.
            dtype: of the activations.
            rngs: for the initial values.
        """
        self.num_heads, self.normalise, self.dtype = num_heads, normalise, dtype
        self.linear = linear(dim, dim, dtype, rngs=rngs)
        self.conv = CausalConv(dim, conv_width, dtype, rngs=rngs) if conv_width else None
        self.tail_shape = (max(conv_width - 1, 0), dim)

    def init_tail(self, batch_size: int) -> Float[Array, "B w-1 D"]:
        """What precedes a sequence: zeros.

        Args:
            batch_size: B.
        """
        return jnp.zeros((batch_size, *self.tail_shape), self.dtype)

    def __call__(
        self,
        x: Float[Array, "B T D"],
        tail: Float[Array, "B w-1 D"],
        reset: TokenFlags | None = None,
        mask: TokenFlags | None = None,
    ) -> tuple[Heads, Float[Array, "B w-1 D"]]:
        """Projects ``x`` to ``[B, T, H, K]`` and returns the convolution's new tail.

        Args:
            x: inputs.
            tail: of the convolution, from the call before or `init_tail`.
            reset: True where a document starts.
            mask: False for padding.
        """
        y = self.linear(x)
        if self.conv is not None:
            y, tail = self.conv(y, tail, reset, mask)
        y = by_heads(jax.nn.silu(y).reshape(*x.shape[:2], self.num_heads, -1), 2)
        return (l2_normalise(y) if self.normalise else y), tail


class NeuralMemory(nnx.Module):
    """A layer that learns while it reads: its fast weights are trained by its own inner loop.

    Example:
        >>> layer = NeuralMemory(256, MemoryConfig(num_heads=4, chunk=64), rngs=nnx.Rngs(0))
        >>> y, state = layer(x)            # x [B, T, 256]; state continues the sequence
        >>> y2, state = layer(x2, state)
    """

    def __init__(
        self,
        dim: int,
        config: MemoryConfig | None = None,
        *,
        project_output: bool = True,
        residual_scale: float = 1.0,
        init_network: Callable[[jax.Array], PyTree] | None = None,
        dtype=jnp.float32,
        rngs: nnx.Rngs,
    ):
        """Makes the parameters.

        Args:
            dim: model dimension D, a multiple of ``config.num_heads``.
            config: None for the defaults.
            project_output: apply W_O; False where a model combines the reads first.
            residual_scale: factor on W_O's initial standard deviation.
            init_network: for a function as the network: key to one head's initial fast weights.
            dtype: of the activations; state and parameters are float32 at least.
            rngs: for the initial values.

        Raises:
            ValueError: naming the argument that does not fit.
        """
        config = MemoryConfig() if config is None else config
        dim = positive_int("dim", dim)
        heads = config.num_heads
        require(dim % heads == 0, "num_heads", heads, f"a divisor of dim = {dim}")
        self.dim, self.config, self.dtype = dim, config, dtype
        self.head_dim = dim // heads
        self.network = config.rule().network
        param_dtype = statistics_dtype(dtype)

        def projection(normalise):
            return HeadProjection(
                dim, heads, config.conv_width, normalise=normalise, dtype=dtype, rngs=rngs
            )

        self.query, self.key, self.value = projection(True), projection(True), projection(False)
        self.gate_kernel = nnx.Param(
            nnx.initializers.truncated_normal(0.1 * dim**-0.5)(
                rngs.params(), (dim, 3, heads), param_dtype
            )
        )
        bias = jnp.asarray([config.forget_bias, ETA_BIAS, config.step_bias], param_dtype)
        self.gate_bias = nnx.Param(jnp.tile(bias[:, None], (1, heads)))
        self.initial_weights = nnx.data(self._initial_weights(init_network, param_dtype, rngs))
        residual = isinstance(self.network, MLPNetwork) and self.network.kind == "residual"
        self.gain = nnx.Param(jnp.ones((heads, self.head_dim), param_dtype)) if residual else None
        self.norm = RMSNorm(self.head_dim, dtype, rngs=rngs)
        self.output_gate = linear(dim, dim, dtype, rngs=rngs) if config.output_gate else None
        self.output = (
            linear(dim, dim, dtype, scale=residual_scale, rngs=rngs) if project_output else None
        )

    def _initial_weights(self, init_network, dtype, rngs):
        """M_0, one per head: nnx.Params in the structure of the fast weights."""
        if isinstance(self.network, MLPNetwork):
            require(
                init_network is None, "init_network", init_network, "None for a built-in network"
            )

            def init_network(key):
                shapes = self.network.shapes(self.head_dim)
                keys = jax.random.split(key, len(shapes))
                return tuple(
                    nnx.initializers.truncated_normal(scale * shape[0] ** -0.5)(k, shape, dtype)
                    for scale, k, shape in zip(self._start_scales(), keys, shapes, strict=True)
                )

        require(callable(init_network), "init_network", init_network, "a function of a key")
        keys = jax.random.split(rngs.params(), self.config.num_heads)
        return jax.tree.map(nnx.Param, jax.vmap(init_network)(keys))

    def _start_scales(self) -> tuple[float, ...]:
        """Factors on the layers of a built-in network's M_0 (`MemoryConfig.weights_start`)."""
        depth = self.network.depth
        if self.config.weights_start == "plain":
            return (1.0,) * depth
        # Keys have unit norm, hidden features the deviation of SiLU.
        hidden = (self.head_dim**0.5, *(1 / SILU_DEVIATION,) * (depth - 2))
        return (*hidden[: depth - 1], 0.0)

    def _learned(self) -> PyTree:
        """M_0, ``[H, ...]``."""
        return jax.tree.map(
            lambda p: heads_only(p[...]),
            self.initial_weights,
            is_leaf=lambda p: isinstance(p, nnx.Param),
        )

    def _start(self, prefix: Float[Array, "P D"] | None) -> Carry:
        """M and S at a sequence's start, ``[H, ...]``: the learned M_0, after writing the prefix."""
        weights = self._learned()
        start = Carry(weights, no_momentum(weights))
        if prefix is None:
            return start
        if prefix.ndim != 2 or prefix.shape[-1] != self.dim:
            raise ValueError(f"prefix must be [P, D] with D = {self.dim}, got shape {prefix.shape}")
        if prefix.shape[0] == 0:
            return start
        _, state = self._run(prefix[None], self._fresh(1, start), None, None, start, aligned=True)
        return Carry(*jax.tree.map(lambda x: x[0], (state.memory.weights, state.memory.momentum)))

    def _fresh(self, batch_size: int, start: Carry) -> NeuralMemoryState:
        width = self.dim if self.config.gates == "chunk" else 0
        nothing = jnp.zeros((batch_size, width), statistics_dtype(self.dtype))
        return NeuralMemoryState(
            fresh_state(start.weights, batch_size, start.momentum),
            *(p.init_tail(batch_size) for p in (self.query, self.key, self.value)),
            GateInput(nothing, nothing),
        )

    def init_state(
        self, batch_size: int, prefix: Float[Array, "P D"] | None = None
    ) -> NeuralMemoryState:
        """The state before a sequence: M_0, or what it is after writing persistent tokens.

        The prefix (Eq. 28, 30) is the same for every sequence, so it is written once. It makes up
        chunks of its own, and no convolution reaches from it into the sequence.

        Args:
            batch_size: B.
            prefix: persistent tokens.

        Raises:
            ValueError: if `batch_size` is not a positive integer.
        """
        batch_size = positive_int("batch_size", batch_size)
        return self._fresh(batch_size, self._start(prefix))

    def prefix_outputs(self, prefix: Float[Array, "P D"]) -> Float[Array, "P D"]:
        """The layer's outputs at the persistent tokens themselves.

        Args:
            prefix: persistent tokens.
        """
        if prefix.shape[0] == 0:
            return prefix
        start = self._start(None)
        return self._run(prefix[None], self._fresh(1, start), None, None, start, aligned=True)[0][0]

    @property
    def rule(self) -> Rule:
        """The inner step, with its slow parameters. No method: `nnx.tabulate` cannot show what is no array."""
        gain = None if self.gain is None else self.gain[...][:, None, :]
        return self.config.rule(gain, self._learned())

    def read(self, q: Heads, weights: PyTree) -> Heads:
        """y = M*(q): reads fast weights without writing (Eq. 15, 21).

        Args:
            q: queries.
            weights: M*, a pytree of ``[B, H, ...]``.
        """

        def one_head(rule, weights, q):
            return jax.vmap(rule.function(), in_axes=(None, 0))(weights, q)

        heads = jax.vmap(one_head, in_axes=(0, 0, 1), out_axes=1)
        wide = q.astype(statistics_dtype(q.dtype))
        return jax.vmap(heads, in_axes=(None, 0, 0))(self.rule, weights, wide).astype(q.dtype)

    def __call__(
        self,
        x: Float[Array, "B T D"],
        state: NeuralMemoryState | None = None,
        *,
        mask: TokenFlags | None = None,
        reset: TokenFlags | None = None,
        prefix: Float[Array, "P D"] | None = None,
        aligned: bool = False,
        freeze: bool = False,
    ) -> tuple[Float[Array, "B T D"], NeuralMemoryState]:
        """Reads and writes the memory at every token.

        Args:
            x: inputs.
            state: None at a sequence's start, else what the previous call returned.
            mask: False for padding.
            reset: True where a document starts, at a chunk's first token.
            prefix: persistent tokens, written before every sequence and document.
            aligned: the caller's promise that ``state`` is at a chunk's start, which saves a shift.
            freeze: read without learning: no token is written, and M does not move by S or alpha
                either. Everything else of the state goes on.

        Returns:
            The outputs and the state after the last token.

        Raises:
            ValueError: for shapes that do not fit.
        """
        aligned = aligned or state is None
        state, start = self._before(x, state, mask, reset, prefix)
        return self._run(x, state, mask, reset, start, aligned=aligned, freeze=freeze)

    def diagnostics(
        self,
        x: Float[Array, "B T D"],
        state: NeuralMemoryState | None = None,
        *,
        mask: TokenFlags | None = None,
        reset: TokenFlags | None = None,
        prefix: Float[Array, "P D"] | None = None,
        freeze: bool = False,
    ) -> Diagnostics:
        """What happens in the memory at each token of a call with these arguments (diagnostics.py), token by token.

        Args:
            x: as in `__call__`, and likewise the others.
            state: likewise.
            mask: likewise.
            reset: likewise.
            prefix: likewise.
            freeze: likewise.
        """
        state, start = self._before(x, state, mask, reset, prefix)
        _, k, v, gates, _ = self._project(x, state, mask, reset)
        return memory_diagnostics(
            self.rule,
            state.memory,
            k,
            v,
            gates,
            chunk=self.config.chunk,
            mask=jnp.zeros(x.shape[:2], jnp.bool_) if freeze else mask,
            reset=reset,
            initial=start if reset is not None else None,
        )

    def _before(self, x, state, mask, reset, prefix) -> tuple[NeuralMemoryState, Carry | None]:
        """The state before a call's tokens, and M and S at a document's start; refuses what does not fit."""
        if x.ndim != 3 or 0 in x.shape or x.shape[-1] != self.dim:
            raise ValueError(
                f"x must be [B, T, D] with B >= 1, T >= 1 and D = {self.dim}, got shape {x.shape}"
            )
        check_flags(x.shape[:2], mask=mask, reset=reset)
        if state is not None and state.memory.position.shape != x.shape[:1]:
            raise ValueError(
                f"state must be of x's batch size {x.shape[0]}, got one of "
                f"{state.memory.position.shape[0]}"
            )
        start = self._start(prefix) if state is None or reset is not None else None
        return self._fresh(x.shape[0], start) if state is None else state, start

    def _project(self, x, state: NeuralMemoryState, mask, reset):
        """q, k, v, gates, and what the next call needs of the inputs: the convolutions' tails and the gates' input."""
        x = by_sequences(x)
        q, conv_q = self.query(x, state.conv_q, reset, mask)
        k, conv_k = self.key(x, state.conv_k, reset, mask)
        v, conv_v = self.value(x, state.conv_v, reset, mask)
        gates, gate_input = self._gates(x, state, mask, reset)
        return q, k, v, gates, (conv_q, conv_k, conv_v, gate_input)

    def _run(
        self,
        x,
        state: NeuralMemoryState,
        mask,
        reset,
        start: Carry | None,
        *,
        aligned: bool,
        freeze: bool = False,
    ) -> tuple[Float[Array, "B T D"], NeuralMemoryState]:
        memory = state.memory._replace(
            **{
                name: jax.tree.map(lambda leaf: by_heads(leaf, 1), getattr(state.memory, name))
                for name in ("weights", "momentum", "anchor")
            }
        )
        x = by_sequences(x)
        q, k, v, gates, tails = self._project(x, state._replace(memory=memory), mask, reset)
        if freeze and reset is None:
            y = self.read(q, memory.weights)
            memory = skip_tokens(memory, x.shape[1], self.config.chunk)
        else:
            y, memory = memory_scan(
                self.rule,
                memory,
                q,
                k,
                v,
                gates,
                chunk=self.config.chunk,
                tile=self.config.tile,
                mask=jnp.zeros(x.shape[:2], jnp.bool_) if freeze else mask,
                reset=reset,
                initial=start if reset is not None else None,
                execution=self.config.execution,
                aligned=aligned,
            )
        y = self.norm(y.astype(self.dtype)).reshape(x.shape)
        if self.output_gate is not None:
            y = y * jax.nn.silu(self.output_gate(x))
        if self.output is not None:
            y = self.output(y)
        return y, NeuralMemoryState(memory, *tails)

    def _gates(self, x, state, mask, reset) -> tuple[Gates, GateInput]:
        wide = x.astype(self.gate_kernel.dtype)  # gates are computed in float32 at least
        gate_input = state.gate_input
        if self.config.gates == "chunk":
            wide, gate_input = chunk_means(
                wide, gate_input, state.memory.position, self.config.chunk, mask, reset
            )
        logits = jnp.einsum("btd,dgh->btgh", wide, self.gate_kernel[...]) + self.gate_bias[...]
        gates = gates_from_logits(
            logits,
            step_size=self.config.step_scale
            / (self.config.chunk if self.config.anchor == "chunk" else 1),
            momentum=self.config.momentum,
            forget=self.config.forget,
        )
        return gates, gate_input


def chunk_means(
    x: Float[Array, "B T D"],
    state: GateInput,
    position: Array,
    chunk: int,
    mask: TokenFlags | None,
    reset: TokenFlags | None,
) -> tuple[Float[Array, "B T D"], GateInput]:
    """For every token the mean input of the chunk before its own: the input of chunk-wise gates.

    §3.2's option makes gates functions of chunks; the running chunk's own mean would leak its
    future, so it is the previous one's. The first chunk of a document sees zeros.

    Args:
        x: inputs.
        state: of the calls before.
        position: of the first token in its chunk, ``[B]``.
        chunk: chunk size.
        mask: padding counts as zeros.
        reset: True where a document starts.

    Returns:
        The means, one per token, and the state after the last token.
    """

    def token(state, inputs):
        previous, running, position = state
        x_t, start = inputs
        if start is not None:
            previous = jnp.where(start[:, None], 0.0, previous)
        out = previous
        running = running + x_t / chunk
        position = (position + 1) % chunk
        done = (position == 0)[:, None]
        previous = jnp.where(done, running, previous)
        running = jnp.where(done, 0.0, running)
        return (previous, running, position), out

    if mask is not None:
        x = jnp.where(mask[..., None], x, 0.0)
    reset = None if reset is None else reset.swapaxes(0, 1)
    (previous, running, _), means = jax.lax.scan(
        token, (*state, position), (x.swapaxes(0, 1), reset)
    )
    return means.swapaxes(0, 1), GateInput(previous, running)
