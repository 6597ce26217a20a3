"""The memory networks M(x; weights): what the fast weights parametrise (§3.1, "deep memory").

    mlp        a plain MLP without biases, SiLU between its layers; depth 1 is a matrix
    residual   x + gain * LayerNorm(MLP(x)), the norm's gain a slow parameter

Fast weights are a tuple of matrices ``[d_in, d_out]``, one per layer. Besides the plain application
this file has what the dual form (DESIGN: every layer's gradient is a rank-one matrix a g^T) needs:
each layer's input a and back-propagated error g of the inner loss ||M(k) - v||^2 (Eq. 12), by hand,
on 2-D arrays, because a kernel's body runs them. Tests hold both to ``jax.grad``.

The bounded step. theta u_t is a gradient step on a loss whose curvature along the token's own error e
is |u|^2 / (4 loss) = |J^T e|^2 / |e|^2: one for a linear memory with unit keys, but growing with the
weights of a deep one, until theta times it passes 2 and the memory diverges. ``bound_step`` divides
u_t by max(1, curvature), so that the step of a deep memory is as stable as the linear one's whatever
its weights. It depends on the token and the anchor alone, hence is the same in every execution.
"""

import dataclasses
import itertools
from collections.abc import Callable
from typing import Literal

import jax
import jax.numpy as jnp
from jaxtyping import Float

from titans_jax.fields import check_fields, field, one_of, positive_int, whole
from titans_jax.memory.products import NN, NT, dot
from titans_jax.typing import Array, FastWeights, PyTree

NORM_EPSILON = 1e-6
CURVATURE_EPSILON = 1e-6

#: A user's own memory network: ``(weights, x [K]) -> y [K]``, pure. Gradients come from ``jax.grad``.
NetworkFunction = Callable[[PyTree, Float[Array, "K"]], Float[Array, "K"]]

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
        """``(d_in, d_out)`` of every layer for heads of ``head_dim`` features."""
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
    hidden = x
    for layer, matrix in enumerate(weights):
        hidden = jnp.dot(hidden, matrix, preferred_element_type=matrix.dtype)
        if layer + 1 < network.depth:
            hidden = hidden * sigmoid(hidden)  # as in gradient_factors: no error, no gradient
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


def sigmoid(z: Array) -> Array:
    """The logistic function by tanh, which accelerators have as one operation."""
    return 0.5 * jnp.tanh(0.5 * z) + 0.5


def silu(z: Array) -> Array:
    """z sigmoid(z)."""
    half = 0.5 * z
    return half * jnp.tanh(half) + half


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
    bound_step: bool = False,
) -> tuple[tuple[Array, ...], tuple[Array, ...]]:
    """Inputs a_l and errors g_l of every layer, so that the gradient of token i is a_l[i] g_l[i]^T.

    The loss is ||M(k_i) - v_i||^2, summed over features (Eq. 12), at the given weights.

    Args:
        network: which network.
        weights: the anchor, one matrix ``[d_in, d_out]`` per layer.
        gain: the norm's gain, for "residual".
        k: keys.
        v: values.
        bound_step: divide the gradient by max(1, curvature), see the module docstring.

    Returns:
        ``(inputs, errors)``, tuples over layers of ``[R, d_in]`` and ``[R, d_out]``.
    """
    operand = k.dtype
    inputs, slopes = [k], []
    z = dot(k, weights[0], NN, operand)  # [R, F]
    for matrix in weights[1:]:
        gate = sigmoid(z)
        hidden = z * gate
        inputs.append(hidden)
        slopes.append(gate + hidden * (1.0 - gate))  # derivative of SiLU
        z = dot(hidden, matrix, NN, operand)
    error = output(network, gain, k, z) - v  # [R, K]
    loss = _square(error)  # [R, 1]
    error = 2.0 * error
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
        back = dot(errors[0], weights[layer], NT, operand)  # [R, F]
        errors.insert(0, back * slopes[layer - 1])
    if bound_step:
        squares = sum(
            _square(a.astype(g.dtype)) * _square(g) for a, g in zip(inputs, errors, strict=True)
        )
        factor = _step_factor(squares, loss)  # [R, 1]
        errors = [factor * g for g in errors]
    return tuple(inputs), tuple(errors)


def surprise(
    network: NetworkFunction,
    weights: PyTree,
    k: Float[Array, "K"],
    v: Float[Array, "K"],
    bound_step: bool = False,
) -> PyTree:
    """The gradient u of ||M(k) - v||^2 at the given weights (Eq. 12), by ``jax.grad``.

    Args:
        network: M(x) as a function of fast weights and one vector.
        weights: the anchor.
        k: key.
        v: value.
        bound_step: divide by max(1, curvature), see the module docstring.
    """

    def loss(weights):
        return jnp.sum((network(weights, k) - v) ** 2)

    value, gradient = jax.value_and_grad(loss)(weights)
    if not bound_step:
        return gradient
    square = sum(jnp.sum(u * u) for u in jax.tree.leaves(gradient))
    return jax.tree.map(lambda u: _step_factor(square, value) * u, gradient)


def _step_factor(gradient_square: Array, loss: Array) -> Array:
    return 1.0 / jnp.maximum(gradient_square / (4.0 * loss + CURVATURE_EPSILON), 1.0)


def _square(x: Array) -> Array:
    return jnp.sum(x * x, axis=-1, keepdims=True)


def network_function(
    network: "MLPNetwork | NetworkFunction", gain: Float[Array, "1 K"] | None
) -> NetworkFunction:
    """The network as a function of its fast weights and one vector, for ``jax.grad``."""
    if not isinstance(network, MLPNetwork):
        return network
    return lambda weights, x: apply_network(network, weights, gain, x[None])[0]
