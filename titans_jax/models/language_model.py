"""The language model: embedding, a stack of equal blocks, final norm, logits.

The blocks are one `Block` whose parameters have a leading layer axis, walked by `jax.lax.scan`: compile time
does not grow with depth, and `jax.checkpoint` on the scan's body is all that rematerialisation takes.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from titans_jax.config import TitansConfig
from titans_jax.fields import optional, positive_int
from titans_jax.layers.linear import linear
from titans_jax.layers.norms import RMSNorm, statistics_dtype
from titans_jax.models.block import Block
from titans_jax.models.token_ids import require_token_ids
from titans_jax.placement import by_sequences, gathered, gathered_for_lookup
from titans_jax.typing import NO_FLAGS, Array, Bool, Flags, Float, Int

EMBEDDING_DEVIATION = 0.02


class Titans(nnx.Module):
    """A language model of any variant: MAC, MAG, MAL, LMM, or the Transformer++ baseline.

    Calling it on a sequence split anywhere, with the state carried, gives what calling it once gives; one
    token at a time is generation.
    """

    def __init__(self, config: TitansConfig, *, rngs: nnx.Rngs):
        """Makes the parameters.

        Args:
            config: the model's configuration.
            rngs: source of the initial parameters.
        """
        dtype = config.activation_dtype
        self.config = config
        shape = (config.vocab_size, config.dim)
        initial = jax.random.normal(rngs.params(), shape, statistics_dtype(dtype))
        self.embedding = nnx.Param(EMBEDDING_DEVIATION * initial)
        self.layers = _stacked_blocks(config, rngs)
        self.norm = RMSNorm(config.dim, dtype, rngs=rngs)
        if not config.tie_embeddings:
            self.head = linear(config.dim, config.vocab_size, dtype, rngs=rngs)

    def init_state(self, batch_size: int, max_length: int | None = None) -> Any:
        """The state before the first token, to be passed to the first call and replaced by what it returns.

        Args:
            batch_size: number of sequences.
            max_length: longest stream; only full attention (`window=None`) needs it.

        Returns:
            A pytree whose leaves start with the axes [L B].

        Raises:
            ValueError: if `batch_size` or `max_length` is not positive, or full attention has no `max_length`.
        """
        batch_size = positive_int("batch_size", batch_size)
        max_length = optional(positive_int)("max_length", max_length)
        graph, parameters = nnx.split(self.layers)

        def layer_state(layer: Any) -> Any:
            return nnx.merge(graph, layer).init_state(batch_size, max_length)

        return jax.lax.map(layer_state, parameters)

    def __call__(
        self,
        tokens: Int[Array, "B T"],
        state: Any = None,
        *,
        mask: Bool[Array, "B T"] | None = None,
        reset: Bool[Array, "B T"] | None = None,
        freeze_memory: bool = False,
        aligned: bool = False,
    ) -> tuple[Float[Array, "B T V"], Any]:
        """Predicts the token after every token.

        Args:
            tokens: token ids, B and T at least 1. One outside the vocabulary is refused where its value is known;
                inside a compiled function, where it is not, it gives NaN.
            state: state after the tokens before these, from `init_state` or an earlier call; None at the
                start of a stream, which is the fast path for training.
            mask: False where a token is padding: it changes nothing but keeps its place in the chunk.
            reset: True where a document starts, at the first token of a chunk (of a segment, for MAC).
            freeze_memory: read the memory without writing: what its learning brings is the difference.
            aligned: the caller's promise that `state` is at a chunk's (for MAC a segment's) start, which
                is faster. Where it is not kept, the result is wrong.

        Returns:
            Logits, in float32 at least, and the state after these tokens.

        Raises:
            ValueError: if an argument's shape or dtype does not fit, or an id is outside the vocabulary.
        """
        flags = Flags(mask, reset, freeze_memory, aligned)
        x, state = self.residual_stream(tokens, state, flags)
        return self.logits(x), state

    def residual_stream(
        self,
        tokens: Int[Array, "B T"],
        state: Any = None,
        flags: Flags = NO_FLAGS,
    ) -> tuple[Float[Array, "B T D"], Any]:
        """The residual stream after the last block, of which calling the model gives the logits.

        Args:
            tokens: as in `__call__`.
            state: likewise.
            flags: likewise, as one.

        Returns:
            The stream, before the final norm, and the state after these tokens.
        """
        self._check(tokens, state, flags)
        return self.blocks(self.embed(tokens), state, flags)

    def blocks(
        self,
        x: Float[Array, "B T D"],
        state: Any,
        flags: Flags = NO_FLAGS,
    ) -> tuple[Float[Array, "B T D"], Any]:
        """All blocks, one after the other. Nothing is checked: see `residual_stream`.

        Args:
            x: the residual stream, from `embed`.
            state: as in `__call__`, or as a loop that generates tokens carries it (cached_attention.py).
            flags: as in `__call__`, as one.
        """
        graph, parameters = nnx.split(self.layers)

        def layer(x: Array, scanned: tuple[Any, Any]) -> tuple[Array, Any]:
            layer_parameters, layer_state = scanned
            x, layer_state = nnx.merge(graph, layer_parameters)(x, layer_state, flags)
            return by_sequences(x), layer_state

        if self.config.remat:
            layer = jax.checkpoint(layer)
        return jax.lax.scan(layer, x, (parameters, state))

    def embed(self, tokens: Int[Array, "B T"]) -> Float[Array, "B T D"]:
        """The residual stream before the first block."""
        table = gathered_for_lookup(self.embedding[...], self.config.activation_dtype)
        # An id below 0 is no more in the vocabulary than one beyond its end.
        rows = table.at[tokens].get(mode="fill", fill_value=jnp.nan, wrap_negative_indices=False)
        return by_sequences(rows.astype(self.config.activation_dtype))

    def logits(self, x: Float[Array, "B T D"]) -> Float[Array, "B T V"]:
        """The logits from the residual stream after the last block."""
        dtype = self.config.activation_dtype
        if self.config.tie_embeddings:
            kernel = gathered(self.embedding[...], dtype).T
        else:
            kernel = self.head.kernel[...]
        return jnp.matmul(
            self.norm(x), kernel.astype(dtype), preferred_element_type=statistics_dtype(dtype)
        )

    def _check(self, tokens: Array, state: Any, flags: Flags) -> None:
        if flags.freeze and not self.config.has_memory:
            raise ValueError(
                f"freeze_memory must be False for a {self.config.variant}, which has no memory"
            )
        require_token_ids("tokens", tokens, self.config.vocab_size)
        for name, given in (("mask", flags.mask), ("reset", flags.reset)):
            if given is not None and (given.shape != tokens.shape or given.dtype != jnp.bool_):
                raise ValueError(
                    f"{name} must be bool of tokens' shape {tokens.shape}, "
                    f"got {given.dtype} {given.shape}"
                )
        leading = (self.config.num_layers, tokens.shape[0])
        for path, leaf in jax.tree_util.tree_leaves_with_path(state):
            if leaf.shape[:2] != leading:
                raise ValueError(
                    f"state{jax.tree_util.keystr(path)} has shape {leaf.shape}, but it must start "
                    f"with (layers, batch) = {leading}: make it with init_state({leading[1]})"
                )


def _stacked_blocks(config: TitansConfig, rngs: nnx.Rngs) -> Block:
    """A block whose every parameter has a leading layer axis, each layer drawn from a key of its own."""
    graph, _ = nnx.split(nnx.eval_shape(lambda: Block(config, rngs=nnx.Rngs(0))))
    keys = jax.random.split(rngs.params(), config.num_layers)
    parameters = jax.vmap(lambda key: nnx.state(Block(config, rngs=nnx.Rngs(key))))(keys)
    return nnx.merge(graph, parameters)
