"""The memory networks M(x; weights): what the fast weights parametrise (§3.1, "deep memory").

    mlp        a plain MLP without biases, SiLU between its layers; depth 1 is a matrix
    residual   x + gain * LayerNorm(MLP(x)), the norm's gain a slow parameter

Fast weights are a tuple of matrices ``[d_in, d_out]``, one per layer. All of it is on 2-D arrays, because a kernel's
body runs it.
"""

import dataclasses
import itertools
from typing import Literal

import jax
import jax.numpy as jnp
from jaxtyping import Float

from titans_jax.fields import check_fields, field, one_of, positive_int, whole
from titans_jax.typing import Array, FastWeights

NORM_EPSILON = 1e-6

NetworkKind = Literal["mlp", "residual"]
#: Of the layers of a memory network.
NETWORK_DEPTH = whole("an integer from 1 to 4", 1, 4)


@dataclasses.dataclass(frozen=True)
class MLPNetwork:
    """Shape of a built-in memory network.

    Attributes:
        kind: "mlp" or "residual".
        depth: number of layers L_M, 1 to 4.
        expansion: hidden width over head dimension (depth 1 has no hidden layer).
    """

    kind: NetworkKind = field("mlp", one_of(NetworkKind))
    depth: int = field(2, NETWORK_DEPTH)
    expansion: int = field(2, positive_int)

    def __post_init__(self) -> None:
        check_fields(self)

    @property
    def linear(self) -> bool:
        """Whether the memory is a single matrix, whose curvature is |k|^2."""
        return self.kind == "mlp" and self.depth == 1

    def shapes(self, head_dim: int) -> tuple[tuple[int, int], ...]:
        """``(d_in, d_out)`` of every layer for heads of ``head_dim`` features.

        Args:
            head_dim: K.
        """
        hidden = self.expansion * head_dim
        widths = [head_dim] + [hidden] * (self.depth - 1) + [head_dim]
        return tuple(itertools.pairwise(widths))


def apply_network(
    network: MLPNetwork,
    weights: FastWeights,
    gain: Float[Array, "1 K"] | None,
    x: Float[Array, "T K"],
) -> Float[Array, "T K"]:
    """y = M(x): reads the memory without writing (Eq. 15).

    Args:
        network: which network.
        weights: one matrix ``[d_in, d_out]`` per layer.
        gain: the norm's gain ``[1, K]``, for "residual" only.
        x: queries.
    """
    return output(network, gain, x, last_product(network, weights, x))


def last_product(
    network: MLPNetwork, weights: FastWeights, x: Float[Array, "T K"]
) -> Float[Array, "T K"]:
    """z, the last layer's product: what `output` makes the network's output of.

    Args:
        network: which network.
        weights: one matrix ``[d_in, d_out]`` per layer.
        x: queries or keys.
    """
    hidden = x
    for layer, matrix in enumerate(weights):
        hidden = jnp.dot(hidden, matrix, preferred_element_type=matrix.dtype)
        if layer + 1 < network.depth:
            hidden = hidden * sigmoid(hidden)  # as in gradient_factors: no error, no gradient
    return hidden


def output(
    network: MLPNetwork,
    gain: Float[Array, "1 K"] | None,
    x: Float[Array, "T K"],
    z: Float[Array, "T K"],
) -> Float[Array, "T K"]:
    """The network's output from its input x and its last layer's product z.

    Args:
        network: which network.
        gain: the norm's gain, for "residual" only.
        x: the network's input.
        z: the last layer's product.
    """
    if network.kind == "mlp":
        return z
    return x + normalise(z)[0] * gain


def sigmoid(z: Array) -> Array:
    """The logistic function by tanh, which accelerators have as one operation.

    Args:
        z: any array.
    """
    return 0.5 * jnp.tanh(0.5 * z) + 0.5


def silu(z: Array) -> Array:
    """z sigmoid(z).

    Args:
        z: any array.
    """
    half = 0.5 * z
    return half * jnp.tanh(half) + half


def normalise(z: Array) -> tuple[Array, Array]:
    """LayerNorm without gain, and the reciprocal standard deviation.

    Args:
        z: vectors along the last axis.
    """
    centred = z - jnp.mean(z, axis=-1, keepdims=True)
    scale = jax.lax.rsqrt(jnp.mean(centred * centred, axis=-1, keepdims=True) + NORM_EPSILON)
    return centred * scale, scale
