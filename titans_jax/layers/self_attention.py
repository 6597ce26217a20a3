"""The projections around the attention functions: NNX modules that hold parameters and nothing else."""

from __future__ import annotations

import jax
from flax import nnx

from titans_jax.layers.attention import (
    FullState,
    WindowState,
    full_attention,
    init_full_state,
    init_window_state,
    sliding_window_attention,
)
from titans_jax.layers.cached_attention import (
    FullCache,
    RingState,
    full_cache_attention,
    ring_attention,
)
from titans_jax.layers.linear import linear
from titans_jax.layers.norms import RMSNorm
from titans_jax.placement import by_heads
from titans_jax.typing import Array, Bool, Float

#: The last two are those of a loop that generates tokens.
AttentionState = WindowState | FullState | RingState | FullCache


class AttentionProjections(nnx.Module):
    """Queries, keys and values, split into heads; queries and keys normalised (paper, 4.4).

    The norm has a learned gain per feature, as in Dehghani et al. (2023), since scores between unit vectors could not
    choose among many keys. Without it scores grow without bound, and MAC and MAG diverge at rates that their memory
    alone trains at.
    """

    def __init__(self, dim: int, num_heads: int, dtype: jax.typing.DTypeLike, *, rngs: nnx.Rngs):
        """Makes the three projections and the two norms.

        Args:
            dim: model dimension, a multiple of `num_heads`.
            num_heads: attention heads.
            dtype: dtype of the activations.
            rngs: source of the initial parameters.
        """
        self.num_heads = num_heads
        self.query_norm = RMSNorm(dim // num_heads, dtype, rngs=rngs)
        self.key_norm = RMSNorm(dim // num_heads, dtype, rngs=rngs)
        self.query = linear(dim, dim, dtype, rngs=rngs)
        self.key = linear(dim, dim, dtype, rngs=rngs)
        self.value = linear(dim, dim, dtype, rngs=rngs)

    def queries(self, x: Float[Array, "... D"]) -> Float[Array, "... H K"]:
        """Queries of every token.

        Args:
            x: inputs.
        """
        return self.query_norm(self._split(self.query(x)))

    def keys_values(
        self, x: Float[Array, "... D"]
    ) -> tuple[Float[Array, "... H K"], Float[Array, "... H K"]]:
        """Keys and values of every token.

        Args:
            x: inputs.
        """
        return self.key_norm(self._split(self.key(x))), self._split(self.value(x))

    def _split(self, x: Float[Array, "... D"]) -> Float[Array, "... H K"]:
        heads = x.reshape(*x.shape[:-1], self.num_heads, x.shape[-1] // self.num_heads)
        return by_heads(heads, 2) if heads.ndim == 4 else heads


class SelfAttention(nnx.Module):
    """Causal attention over a sliding window or over everything, without an output projection."""

    def __init__(
        self,
        dim: int,
        num_heads: int,
        window: int | None,
        rope_base: float,
        dtype: jax.typing.DTypeLike,
        *,
        rngs: nnx.Rngs,
    ):
        """Makes the projections.

        Args:
            dim: model dimension, an even multiple of `num_heads`.
            num_heads: attention heads.
            window: tokens that each token sees, itself included; None for all before it.
            rope_base: base of the rotary embedding.
            dtype: dtype of the activations.
            rngs: source of the initial parameters.
        """
        self.window = window
        self.rope_base = rope_base
        self.dtype = dtype
        self.head_dim = dim // num_heads
        self.num_heads = num_heads
        self.projections = AttentionProjections(dim, num_heads, dtype, rngs=rngs)

    def init_state(self, batch_size: int, max_length: int | None) -> WindowState | FullState:
        """The state before the first token.

        Args:
            batch_size: number of sequences.
            max_length: longest stream that full attention will carry; a window needs no limit.

        Raises:
            ValueError: if the attention is full and `max_length` is None.
        """
        shape = (self.num_heads, self.head_dim, self.dtype)
        if self.window is not None:
            return init_window_state(batch_size, self.window, *shape)
        if max_length is None:
            raise ValueError(
                "max_length is None, but full attention keeps every token: give init_state the "
                "length of the longest stream, or set window"
            )
        return init_full_state(batch_size, max_length, *shape)

    def __call__(
        self,
        x: Float[Array, "B T D"],
        prefix: Float[Array, "P D"],
        state: AttentionState | None = None,
        *,
        mask: Bool[Array, "B T"] | None = None,
        reset: Bool[Array, "B T"] | None = None,
    ) -> tuple[Float[Array, "B T D"], AttentionState]:
        """Attends, and merges the heads.

        Args:
            x: normalised activations.
            prefix: persistent tokens, normalised like `x`; P may be 0.
            state: state after the tokens before `x`; None at the start of a stream. A full attention's
                state that comes from None has room for these tokens only. With a state of
                cached_attention.py, x is one token that is visible and starts no document.
            mask: False where a token is padding.
            reset: True where a document starts.

        Returns:
            Attended values and the new state.

        Raises:
            ValueError: if a state of cached_attention.py meets more than one token, or flags.
        """
        batch, length, dim = x.shape
        if state is None:
            state = self.init_state(batch, length)
        q = self.projections.queries(x)
        k, v = self.projections.keys_values(x)
        prefix_keys, prefix_values = self.projections.keys_values(prefix)
        arguments = (q, k, v, prefix_keys, prefix_values)
        rope_base = self.rope_base
        if isinstance(state, RingState | FullCache):
            if length != 1 or mask is not None or reset is not None:
                raise ValueError(
                    "a state that generates tokens takes one at a time, without mask and reset, got "
                    f"{length} tokens, mask {mask is not None}, reset {reset is not None}"
                )
            one = (q[:, 0], k[:, 0], v[:, 0], prefix_keys, prefix_values)
            if isinstance(state, RingState):
                out, state = ring_attention(*one, state, rope_base=rope_base)
            else:
                out, state = full_cache_attention(*one, state, rope_base=rope_base)
        elif isinstance(state, FullState):
            out, state = full_attention(
                *arguments, state, rope_base=rope_base, mask=mask, reset=reset
            )
        else:
            out, state = sliding_window_attention(
                *arguments, state, rope_base=rope_base, mask=mask, reset=reset
            )
        return out.reshape(batch, length, dim), state
