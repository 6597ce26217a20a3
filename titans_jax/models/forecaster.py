"""The neural memory as the sequence mixer of a long-term forecaster (paper, section 5.6).

After the SiMBA framework that the paper plugs its memory into: normalise per window, embed patches (or whole
variates), mix the tokens by a memory and their features by a feed-forward layer, map to the horizon.

    x~ = (x - mean) / std - cycle[phase ..]          per window and variate; `cycle` is learned, one value per phase
    z  = embed(patches of x~)                        tokens are patches of one variate, or the variates themselves
    z  <- Block(z), ..                               LMM, MAC, MAG or MAL, then SwiGLU, as in the language model
    y~ = x~ W + head(flatten(z)) + cycle[phase + L ..]
    y  = y~ std + mean

The subtracted cycle (CycleNet, Lin et al., 2024) is known for every future row, so that 96 rows of look-back are
enough for what returns every day. W is the linear map that no forecaster should fall behind; the memory's part
starts near zero and adds what is not linear. Variates share all parameters but the cycle.
"""

from __future__ import annotations

import dataclasses
from typing import Any, Literal

import jax
import jax.numpy as jnp
from flax import nnx

from titans_jax.config import RULE_OF_0_1, MemoryConfig, TitansConfig
from titans_jax.fields import (
    below_one,
    check_fields,
    field,
    flag,
    instance_of,
    non_negative_int,
    one_of,
    positive_int,
    require,
    whole,
)
from titans_jax.layers.norms import RMSNorm
from titans_jax.models.block import Block
from titans_jax.typing import Array, Flags, Float, Int

Embedding = Literal["patches", "variates"]
Mixer = Literal["lmm", "mac", "mag", "mal", "transformer"]

#: Added to a window's variance: a variate that does not move in a window is left at zero.
VARIANCE_EPSILON = 1e-5
#: The head starts this much smaller than a linear layer would, so that the linear map leads.
HEAD_SCALE = 0.1


#: Rows of a patch where the look-back is a multiple: the published look-backs are.
USUAL_PATCH = 48

_rows = whole("a positive integer, or 0 to choose", 0)


def _fit(lookback: int, patch: int, stride: int) -> bool:
    """Whether patches end with the look-back."""
    return patch <= lookback and (lookback - patch) % stride == 0


def _patches(lookback: int, patch: int, stride: int) -> tuple[int, int]:
    """Rows of a patch and from one to the next, with what was left to choose."""
    if not patch and not stride:
        count = -(-lookback // USUAL_PATCH)
        stride = lookback // count
        return lookback - (count - 1) * stride, stride
    usual = (patch or USUAL_PATCH, stride or USUAL_PATCH)
    same = (patch or stride, stride or patch)
    return usual if _fit(lookback, *usual) else same


@dataclasses.dataclass(frozen=True)
class ForecasterConfig:
    """A forecaster of some number of variates.

    Attributes:
        lookback: rows that a forecast sees, L.
        horizon: rows that it predicts.
        variates: columns of the series.
        season: rows of the learned cycle, e.g. those of a day; 0 for none.
        embedding: "patches" (each variate is a sequence of its own) or "variates" (one token each, as in
            iTransformer; the mixer then runs over the variates).
        patch: rows of a patch; 0 to choose, after which the field holds what was chosen.
        stride: rows from a patch to the next, of which ``lookback - patch`` must be a multiple; 0 to choose. Where
            neither is given, patches are as near to 48 rows as they cover the look-back; where one is, the other is 48,
            or the same where 48 does not fit.
        mixer: what mixes tokens.
        bidirectional: also run a second mixer over the tokens from last to first, and add both.
        dim: features of a token.
        num_layers: blocks.
        num_heads: attention heads of MAC, MAG and MAL.
        feed_forward: hidden width of the layer that mixes features.
        dropout: of embedded tokens and of the head's input.
        memory: the neural memory; ``chunk`` counts tokens.
    """

    lookback: int = field(96, positive_int)
    horizon: int = field(96, positive_int)
    variates: int = field(1, positive_int)
    season: int = field(0, whole("an integer, 0 for no cycle", 0))
    embedding: Embedding = field("patches", one_of(Embedding))
    patch: int = field(0, _rows)
    stride: int = field(0, _rows)
    mixer: Mixer = field("lmm", one_of(Mixer))
    bidirectional: bool = field(False, flag)
    dim: int = field(32, positive_int)
    num_layers: int = field(1, positive_int)
    num_heads: int = field(2, positive_int)
    feed_forward: int = field(64, non_negative_int)
    dropout: float = field(0.5, below_one)
    memory: MemoryConfig = field(
        MemoryConfig(num_heads=2, depth=1, chunk=1, conv_width=0, **RULE_OF_0_1),
        instance_of(MemoryConfig),
    )

    def __post_init__(self) -> None:
        check_fields(self)
        patch, stride = _patches(self.lookback, self.patch, self.stride)
        object.__setattr__(self, "patch", patch)
        object.__setattr__(self, "stride", stride)
        if self.embedding == "patches":
            require(
                _fit(self.lookback, patch, stride),
                "patch, stride",
                (self.patch, self.stride),
                f"such that lookback - patch is a multiple of stride, for lookback = {self.lookback}",
            )
        self.block_config()

    @property
    def tokens(self) -> int:
        """Tokens of one sequence."""
        if self.embedding == "variates":
            return self.variates
        return (self.lookback - self.patch) // self.stride + 1

    @property
    def token_rows(self) -> int:
        """Rows that one token holds."""
        return self.patch if self.embedding == "patches" else self.lookback

    def block_config(self) -> TitansConfig:
        """The blocks, which are those of the language model; attention sees all tokens."""
        chunk = self.memory.chunk
        return TitansConfig(
            variant=self.mixer,
            dim=self.dim,
            num_layers=self.num_layers,
            num_heads=self.num_heads,
            window=self.tokens,
            segment=-(-self.tokens // chunk) * chunk,
            persistent_tokens=0,
            feed_forward=self.feed_forward,
            memory=self.memory,
        )


def dropout(x: Float[Array, "..."], rate: float, key: jax.Array | None) -> Float[Array, "..."]:
    """Drops elements and scales up the rest; without a key nothing is dropped."""
    if key is None or rate == 0:
        return x
    kept = jax.random.bernoulli(key, 1 - rate, x.shape)
    return jnp.where(kept, x / (1 - rate), jnp.zeros_like(x))


class WindowNorm(nnx.Module):
    """Reversible instance normalisation (Kim et al., 2022) with a learned cycle taken out as well."""

    def __init__(self, season: int, variates: int, *, rngs: nnx.Rngs):
        """Makes the cycle, zero at the start.

        Args:
            season: rows of the cycle; 0 for none.
            variates: columns.
            rngs: unused by the constant initialisation, taken so that every layer is built alike.
        """
        del rngs
        self.season = season
        self.cycle = nnx.Param(jnp.zeros((season, variates), jnp.float32)) if season else None

    def cycle_rows(self, phase: Int[Array, "B"], first: int, rows: int) -> Array:
        """The cycle at `rows` rows from `first` rows after the window's start, ``[B, rows, C]``; 0 without one."""
        if self.cycle is None:
            return jnp.zeros((), jnp.float32)
        index = phase[:, None] + jnp.arange(first, first + rows, dtype=jnp.int32)
        return self.cycle[...][index % self.season]

    def __call__(
        self, x: Float[Array, "B L C"], phase: Int[Array, "B"]
    ) -> tuple[Float[Array, "B L C"], Float[Array, "B 1 C"], Float[Array, "B 1 C"]]:
        """The normalised window, its mean and its deviation. No gradient goes through the statistics."""
        mean = jax.lax.stop_gradient(jnp.mean(x, axis=1, keepdims=True))
        variance = jax.lax.stop_gradient(jnp.var(x, axis=1, keepdims=True))
        std = jnp.sqrt(variance + VARIANCE_EPSILON)
        return (x - mean) / std - self.cycle_rows(phase, 0, x.shape[1]), mean, std

    def undo(
        self,
        y: Float[Array, "B S C"],
        mean: Float[Array, "B 1 C"],
        std: Float[Array, "B 1 C"],
        phase: Int[Array, "B"],
        lookback: int,
    ) -> Float[Array, "B S C"]:
        """Back to the series' scale, for the rows that follow the look-back."""
        return (y + self.cycle_rows(phase, lookback, y.shape[1])) * std + mean


class Forecaster(nnx.Module):
    """Forecasts all variates of a standardised window.

    Example:
        >>> model = Forecaster(ForecasterConfig(variates=7, horizon=192, season=24), rngs=nnx.Rngs(0))
        >>> y = model(x, phase)             # x [B, 96, 7], phase [B] -> y [B, 192, 7]
    """

    def __init__(self, config: ForecasterConfig, *, rngs: nnx.Rngs):
        """Makes the parameters.

        Args:
            config: the forecaster's configuration.
            rngs: source of the initial parameters.
        """
        self.config = config
        blocks, dim, tokens = config.block_config(), config.dim, config.tokens
        self.window_norm = WindowNorm(config.season, config.variates, rngs=rngs)
        self.linear = nnx.Linear(
            config.lookback,
            config.horizon,
            kernel_init=nnx.initializers.constant(1 / config.lookback),
            rngs=rngs,
        )
        self.embed = nnx.Linear(config.token_rows, dim, rngs=rngs)
        # Variates have no order that all series share; patches have one.
        self.position = (
            nnx.Param(0.02 * jax.random.normal(rngs.params(), (tokens, dim), jnp.float32))
            if config.embedding == "patches"
            else None
        )
        self.blocks = nnx.List([Block(blocks, rngs=rngs) for _ in range(config.num_layers)])
        self.backward_blocks = nnx.List(
            [Block(blocks, rngs=rngs) for _ in range(config.num_layers * config.bidirectional)]
        )
        self.norm = RMSNorm(dim, rngs=rngs)
        features = dim if config.embedding == "variates" else tokens * dim
        self.head = nnx.Linear(
            features,
            config.horizon,
            kernel_init=nnx.initializers.variance_scaling(
                HEAD_SCALE**2, "fan_in", "truncated_normal"
            ),
            rngs=rngs,
        )

    def init_state(self, series: int) -> tuple[Any, ...]:
        """The memories before the first patch of a stream: one state per block.

        Args:
            series: streams times variates.

        Raises:
            ValueError: if the tokens are no stream: variates, or patches read in both directions.
        """
        self._require_stream()
        return tuple(block.init_state(series, None) for block in self.blocks)

    def __call__(
        self,
        x: Float[Array, "B L C"],
        phase: Int[Array, "B"],
        *,
        state: tuple[Any, ...] | None = None,
        freeze_memory: bool = False,
        key: jax.Array | None = None,
    ) -> Float[Array, "B S C"]:
        """Forecasts the rows that follow a window.

        Args:
            x: windows of the standardised series.
            phase: row of the cycle at each window's first row.
            state: memories after the patches before the window, from `read`; None for the learned start.
            freeze_memory: read the memory without writing, in the window as well.
            key: for dropout; None in use.

        Returns:
            The forecasts.

        Raises:
            ValueError: for a shape that does not fit.
        """
        config = self.config
        if x.ndim != 3 or x.shape[1:] != (config.lookback, config.variates):
            raise ValueError(
                f"x must be [B, lookback, variates] = [B, {config.lookback}, {config.variates}], "
                f"got shape {x.shape}"
            )
        keys = (None, None) if key is None else tuple(jax.random.split(key))
        normal, mean, std = self.window_norm(x, phase)
        normal = jnp.swapaxes(normal, 1, 2)  # [B, C, L]
        z = self._mix(dropout(self._tokens(normal), config.dropout, keys[0]), state, freeze_memory)
        z = self.norm(z).reshape(*normal.shape[:2], -1)
        y = self.linear(normal) + self.head(dropout(z, config.dropout, keys[1]))
        return self.window_norm.undo(jnp.swapaxes(y, 1, 2), mean, std, phase, config.lookback)

    def read(
        self,
        x: Float[Array, "B N L C"],
        phase: Int[Array, "B N"],
        state: tuple[Any, ...],
        *,
        freeze_memory: bool = False,
    ) -> tuple[Any, ...]:
        """Writes the first patches of windows, `stride` rows apart, into the memories of a stream.

        After the windows at rows t, t + stride, .., t + (N - 1) stride it gives the state with which the window at
        t + N stride is to be forecast. Every patch is normalised by the window that it opens, which ends before
        that one does: nothing of the future is seen.

        Args:
            x: windows of the standardised series, in order.
            phase: row of the cycle at each window's first row.
            state: memories after the patches before, from `init_state` or an earlier call.
            freeze_memory: move on without learning.
        """
        self._require_stream()
        batch, count, _, variates = x.shape
        windows = x.reshape(-1, *x.shape[2:])
        normal, _, _ = self.window_norm(windows, phase.reshape(-1))
        patches = self.embed(jnp.swapaxes(normal[:, : self.config.patch], 1, 2))
        z = (patches + self.position[...][0]).reshape(batch, count, variates, -1)  # type: ignore[index]
        z = jnp.swapaxes(z, 1, 2).reshape(batch * variates, count, -1)
        after = []
        for block, before in zip(self.blocks, state, strict=True):
            z, now = block(z, before, Flags(freeze=freeze_memory))
            after.append(now)
        return tuple(after)

    def _require_stream(self) -> None:
        config = self.config
        if config.embedding != "patches" or config.bidirectional:
            raise ValueError(
                "a stream needs embedding='patches' and bidirectional=False, got "
                f"embedding={config.embedding!r}, bidirectional={config.bidirectional}"
            )

    def _tokens(self, normal: Float[Array, "B C L"]) -> Float[Array, "N T D"]:
        """Sequences of embedded tokens: one per window and variate, or one per window."""
        config = self.config
        if config.embedding == "variates":
            return self.embed(normal)
        starts = range(0, config.lookback - config.patch + 1, config.stride)
        patches = jnp.stack([normal[..., s : s + config.patch] for s in starts], axis=2)
        tokens = self.embed(patches) + self.position[...]  # type: ignore[index]
        return tokens.reshape(-1, *tokens.shape[2:])

    def _mix(self, z: Float[Array, "N T D"], state: Any, freeze: bool) -> Float[Array, "N T D"]:
        forward = _run(self.blocks, z, state, freeze)
        if not self.backward_blocks:
            return forward
        backward = _run(self.backward_blocks, z[:, ::-1], None, freeze)
        return forward + backward[:, ::-1] - z  # each has z itself in its residual stream


def _run(blocks: nnx.List, z: Array, state: Any, freeze: bool) -> Array:
    for index, block in enumerate(blocks):
        z, _ = block(z, None if state is None else state[index], Flags(freeze=freeze))
    return z
