"""The memory networks M(x; weights): what the fast weights parametrise (§3.1, "deep memory").

    mlp        a plain MLP without biases, SiLU between its layers; depth 1 is a matrix
    residual   x + gain * LayerNorm(MLP(x)), the norm's gain a slow parameter

Fast weights are a tuple of matrices ``[d_in, d_out]``, one per layer. Besides the plain application
this file has what the dual form (DESIGN: every layer's gradient is a rank-one matrix a g^T) needs:
each layer's input a and back-propagated error g of the inner loss ||M(k) - v||^2 (Eq. 12), by hand,
on 2-D arrays, because a kernel's body runs them. Tests hold both to ``jax.grad``.
"""

import dataclasses
from collections.abc import Callable
from typing import Literal

import jax
import jax.numpy as jnp
from jaxtyping import Float

from titans_jax.typing import Array, FastWeights, PyTree

NORM_EPSILON = 1e-6

#: A user's own memory network: ``(weights, x [K]) -> y [K]``, pure. Gradients come from ``jax.grad``.
NetworkFunction = Callable[[PyTree, Float[Array, "K"]], Float[Array, "K"]]


@dataclasses.dataclass(frozen=True)
class MLPNetwork:
    """Shape of a built-in memory network.

    Attributes:
        kind: "mlp" or "residual".
        depth: number of layers L_M, 1 to 4.
        expansion: hidden width over head dimension (depth 1 has no hidden layer).
    """

    kind: Literal["mlp", "residual"] = "mlp"
    depth: int = 2
    expansion: int = 2

    def __post_init__(self):
        if self.kind not in ("mlp", "residual"):
            raise ValueError(f"network must be 'mlp', 'residual' or a function, got {self.kind!r}")
        if not isinstance(self.depth, int) or not 1 <= self.depth <= 4:
            raise ValueError(f"depth must be an integer from 1 to 4, got {self.depth!r}")
        if not isinstance(self.expansion, int) or self.expansion < 1:
            raise ValueError(f"expansion must be a positive integer, got {self.expansion!r}")

    def shapes(self, head_dim: int) -> tuple[tuple[int, int], ...]:
        """``(d_in, d_out)`` of every layer for heads of ``head_dim`` features."""
        hidden = self.expansion * head_dim
        widths = [head_dim] + [hidden] * (self.depth - 1) + [head_dim]
        return tuple(zip(widths[:-1], widths[1:], strict=True))


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
    hidden = x
    for layer, matrix in enumerate(weights):
        hidden = jnp.dot(hidden, matrix, preferred_element_type=matrix.dtype)
        if layer + 1 < network.depth:
            hidden = jax.nn.silu(hidden)
    return output(network, gain, x, hidden)


def output(
    network: MLPNetwork,
    gain: Float[Array, "1 K"] | None,
    x: Float[Array, "T K"],
    z: Float[Array, "T K"],
) -> Float[Array, "T K"]:
    """The network's output from its input x and its last layer's product z."""
    if network.kind == "mlp":
        return z
    return x + _normalise(z)[0] * gain


def _normalise(z: Array) -> tuple[Array, Array]:
    """LayerNorm without gain, and the reciprocal standard deviation."""
    centred = z - jnp.mean(z, axis=-1, keepdims=True)
    scale = jax.lax.rsqrt(jnp.mean(centred * centred, axis=-1, keepdims=True) + NORM_EPSILON)
    return centred * scale, scale


def gradient_factors(
    network: MLPNetwork,
    weights: FastWeights,
    gain: Float[Array, "1 K"] | None,
    k: Float[Array, "R K"],
    v: Float[Array, "R K"],
) -> tuple[tuple[Array, ...], tuple[Array, ...]]:
    """Inputs a_l and errors g_l of every layer, so that the gradient of token i is a_l[i] g_l[i]^T.

    The loss is ||M(k_i) - v_i||^2, summed over features (Eq. 12), at the given weights.

    Args:
        network: which network.
        weights: the anchor, one matrix ``[d_in, d_out]`` per layer.
        gain: the norm's gain, for "residual".
        k: keys.
        v: values.

    Returns:
        ``(inputs, errors)``, tuples over layers of ``[R, d_in]`` and ``[R, d_out]``.
    """
    inputs, slopes = [k], []
    z = jnp.dot(k, weights[0], preferred_element_type=weights[0].dtype)  # [R, F]
    for matrix in weights[1:]:
        gate = jax.nn.sigmoid(z)
        inputs.append(z * gate)
        slopes.append(gate * (1.0 + z * (1.0 - gate)))  # derivative of SiLU
        z = jnp.dot(inputs[-1], matrix, preferred_element_type=matrix.dtype)
    error = 2.0 * (output(network, gain, k, z) - v)  # [R, K]
    if network.kind == "residual":
        normal, scale = _normalise(z)
        error = error * gain
        error = scale * (
            error
            - jnp.mean(error, axis=-1, keepdims=True)
            - normal * jnp.mean(error * normal, axis=-1, keepdims=True)
        )
    errors = [error]
    for layer in range(network.depth - 1, 0, -1):
        back = _dot_transposed(errors[0], weights[layer])
        errors.insert(0, back * slopes[layer - 1])
    return tuple(inputs), tuple(errors)


def _dot_transposed(x: Array, matrix: Array) -> Array:
    """x @ matrix.T without forming the transpose."""
    return jax.lax.dot_general(
        x, matrix, (((1,), (1,)), ((), ())), preferred_element_type=matrix.dtype
    )


def network_function(
    network: "MLPNetwork | NetworkFunction", gain: Float[Array, "1 K"] | None
) -> NetworkFunction:
    """The network as a function of its fast weights and one vector, for ``jax.grad``."""
    if not isinstance(network, MLPNetwork):
        return network
    return lambda weights, x: apply_network(network, weights, gain, x[None])[0]
