"""The forecasters that the memory is compared with, each with the call of `titans_jax.models.forecaster.Forecaster`.

* DLinear (Zeng et al., 2023): moving average of 25 rows; one linear map for the trend, one for the rest.
* RLinear (Li et al., 2023): reversible instance normalisation and one linear map. With a learned cycle it is what
  CycleNet (Lin et al., 2024) calls linear, and all of the memory forecaster but its memory and feed-forward layer.
* FrozenMemory: the memory forecaster without the learning of its memory.
* PatchTST-style (Nie et al., 2023): attention in both directions over the patches of each variate.
* iTransformer-style (Liu et al., 2024): attention in both directions over the variates.

Linear maps are shared by all variates. The last two have the published layout, normalisation after the residual
sum with layer norm (batch norm in the published PatchTST), GELU, and dropout, at sizes stated in `recipes.py`.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from titans_jax.models.forecaster import Forecaster, WindowNorm, dropout
from titans_jax.typing import Array, Float, Int

MOVING_AVERAGE = 25


def torch_linear(fan_in: int, fan_out: int, rngs: nnx.Rngs) -> nnx.Linear:
    """A linear map with the initial values that the published results had: uniform in 1 / sqrt(fan in)."""
    bound = fan_in**-0.5

    def initial(key: jax.Array, shape: Any, dtype: Any = jnp.float32, **_: Any) -> Array:
        return jax.random.uniform(key, shape, dtype, -bound, bound)

    return nnx.Linear(fan_in, fan_out, kernel_init=initial, bias_init=initial, rngs=rngs)


def moving_average(x: Float[Array, "B C L"]) -> Float[Array, "B C L"]:
    """Mean over 25 rows, centred; the ends are repeated outwards."""
    half = MOVING_AVERAGE // 2
    padded = jnp.pad(x, ((0, 0), (0, 0), (half, half)), mode="edge")
    sums = jnp.cumsum(jnp.pad(padded, ((0, 0), (0, 0), (1, 0))), axis=-1)
    return (sums[..., MOVING_AVERAGE:] - sums[..., :-MOVING_AVERAGE]) / MOVING_AVERAGE


class DLinear(nnx.Module):
    """forecast = trend W_t + (x - trend) W_s."""

    def __init__(self, lookback: int, horizon: int, *, rngs: nnx.Rngs):
        self.trend = torch_linear(lookback, horizon, rngs)
        self.seasonal = torch_linear(lookback, horizon, rngs)

    def __call__(
        self, x: Float[Array, "B L C"], phase: Int[Array, "B"], *, key: jax.Array | None = None
    ) -> Float[Array, "B S C"]:
        """Forecasts; `phase` and `key` do not matter."""
        x = jnp.swapaxes(x, 1, 2)
        trend = moving_average(x)
        return jnp.swapaxes(self.trend(trend) + self.seasonal(x - trend), 1, 2)


class RLinear(nnx.Module):
    """forecast = std (x~ W) + mean; with a season, the forecaster's own cycle is taken out as well."""

    def __init__(
        self, lookback: int, horizon: int, *, season: int = 0, variates: int = 1, rngs: nnx.Rngs
    ):
        self.window_norm = WindowNorm(season, variates, rngs=rngs)
        self.linear = torch_linear(lookback, horizon, rngs)

    def __call__(
        self, x: Float[Array, "B L C"], phase: Int[Array, "B"], *, key: jax.Array | None = None
    ) -> Float[Array, "B S C"]:
        """Forecasts; `key` does not matter."""
        normal, mean, std = self.window_norm(x, phase)
        y = jnp.swapaxes(self.linear(jnp.swapaxes(normal, 1, 2)), 1, 2)
        return self.window_norm.undo(y, mean, std, phase, x.shape[1])


class Encoder(nnx.Module):
    """One layer of attention in both directions and a feed-forward layer, each normalised after its sum."""

    def __init__(self, dim: int, num_heads: int, hidden: int, rate: float, *, rngs: nnx.Rngs):
        self.num_heads, self.rate = num_heads, rate
        self.qkv = torch_linear(dim, 3 * dim, rngs)
        self.output = torch_linear(dim, dim, rngs)
        self.up, self.down = torch_linear(dim, hidden, rngs), torch_linear(hidden, dim, rngs)
        self.norms = nnx.List([nnx.LayerNorm(dim, rngs=rngs) for _ in range(2)])

    def __call__(self, z: Float[Array, "N T D"], key: jax.Array | None) -> Float[Array, "N T D"]:
        """Mixes tokens, then features; `key` is for dropout."""
        keys = (None, None) if key is None else tuple(jax.random.split(key))
        split = self.qkv(z).reshape(*z.shape[:2], 3, self.num_heads, -1)
        attended = jax.nn.dot_product_attention(*(split[:, :, i] for i in range(3)))
        z = self.norms[0](z + dropout(self.output(attended.reshape(z.shape)), self.rate, keys[0]))
        return self.norms[1](z + dropout(self.down(jax.nn.gelu(self.up(z))), self.rate, keys[1]))


class AttentionForecaster(nnx.Module):
    """Attention over the patches of each variate (PatchTST-style) or over the variates (iTransformer-style)."""

    def __init__(
        self,
        lookback: int,
        horizon: int,
        *,
        inverted: bool,
        dim: int,
        num_layers: int,
        num_heads: int,
        hidden: int,
        rate: float,
        patch: int = 16,
        stride: int = 8,
        rngs: nnx.Rngs,
    ):
        self.inverted, self.rate, self.patch, self.stride = inverted, rate, patch, stride
        # The last row is repeated for one more patch, as in PatchTST.
        tokens = (lookback - patch) // stride + 2
        self.window_norm = WindowNorm(0, 1, rngs=rngs)
        self.embed = torch_linear(lookback if inverted else patch, dim, rngs)
        if not inverted:
            self.position = nnx.Param(
                jax.random.uniform(rngs.params(), (tokens, dim), jnp.float32, -0.02, 0.02)
            )
        self.encoders = nnx.List(
            [Encoder(dim, num_heads, hidden, rate, rngs=rngs) for _ in range(num_layers)]
        )
        self.norm = nnx.LayerNorm(dim, rngs=rngs)
        self.head = torch_linear(dim if inverted else tokens * dim, horizon, rngs)

    def __call__(
        self, x: Float[Array, "B L C"], phase: Int[Array, "B"], *, key: jax.Array | None = None
    ) -> Float[Array, "B S C"]:
        """Forecasts; `key` is for dropout."""
        count = len(self.encoders) + 2
        keys = [None] * count if key is None else list(jax.random.split(key, count))
        normal, mean, std = self.window_norm(x, phase)
        normal = jnp.swapaxes(normal, 1, 2)  # [B, C, L]
        z = self.embed(normal) if self.inverted else self._patches(normal)
        z = dropout(z, self.rate, keys[0])
        for encoder, encoder_key in zip(self.encoders, keys[2:], strict=True):
            z = encoder(z, encoder_key)
        z = self.norm(z) if self.inverted else z
        z = z.reshape(*normal.shape[:2], -1)
        y = self.head(z if self.inverted else dropout(z, self.rate, keys[1]))
        return self.window_norm.undo(jnp.swapaxes(y, 1, 2), mean, std, phase, x.shape[1])

    def _patches(self, normal: Float[Array, "B C L"]) -> Float[Array, "N T D"]:
        padded = jnp.pad(normal, ((0, 0), (0, 0), (0, self.stride)), mode="edge")
        starts = range(0, padded.shape[-1] - self.patch + 1, self.stride)
        patches = jnp.stack([padded[..., s : s + self.patch] for s in starts], axis=2)
        tokens = self.embed(patches) + self.position[...]
        return tokens.reshape(-1, *tokens.shape[2:])


class FrozenMemory(nnx.Module):
    """A memory forecaster whose memory is read but never written, in training as in use: what writing brings."""

    def __init__(self, forecaster: Forecaster):
        self.forecaster = forecaster

    def __call__(
        self, x: Float[Array, "B L C"], phase: Int[Array, "B"], *, key: jax.Array | None = None
    ) -> Float[Array, "B S C"]:
        """Forecasts; `key` is for dropout."""
        return self.forecaster(x, phase, freeze_memory=True, key=key)
