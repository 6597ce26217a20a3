"""`Rule`: what one inner step of the memory is. The one place where it is said; executions only run it.

    u_t = gradient of ||M(k_t) - v_t||^2                          (Eq. 12)
    S_t = eta_t S_{t-1} - theta_t u_t                             (Eq. 10, 14)
    M_t = B + (1 - alpha_t) (M_{t-1} - B) + S_t                   (Eq. 13 with B = 0, the paper's)
    y_t = M_t(q_t)                                                (Eq. 15)

Where the gradient is taken. The paper's (Eq. 16) is ``anchor="chunk"``: at the memory of the chunk's start, the same
for all of its tokens. Their gradients do not know of each other and add up, so that a stable step must shrink as the
chunk grows. With ``anchor="token"`` the layers below the last keep the chunk's anchor, but the **last** layer's error
is that of the memory as it is just before the token:

    h_t = what layers 1..L-1 make of k_t at the chunk's start        z_t = h_t M^L_{t-1}
    g_t = gradient of the loss with respect to z_t                   u^L_t = h_t^T g_t
    lower layers back-propagate g_t through the anchor's weights

All of it stays linear in the g_t, so that the errors of a tile solve one unit lower triangular system (dual.py). With
one layer this is the online rule of chunk 1, at any chunk: without momentum DeltaNet's and Gated DeltaNet's. The norm
of a "residual" network is not linear; its curvature enters as one number per token, the one along the anchor's error:

    g_t = g^0_t + 2 c_t (z_t - z^0_t)         c_t = |g^0_t|^2 / (4 loss^0_t);  without a norm c = 1, g = 2 (z - v)

The bounded step. theta u_t is a gradient step on a loss whose curvature along the token's own error e is |u|^2 / (4
loss) = |J^T e|^2 / |e|^2: one for a linear memory with unit keys, but growing with the weights of a deep one, until
theta times it passes 2 and the memory diverges. ``bound`` divides u_t by max(1, curvature), so that the step of a deep
memory is as stable as the linear one's whatever its weights. Of "features" only the last layer's part is counted,
c |h|^2, which no error has a say in. The bound depends on the token and the anchor alone, hence is the same in every
execution.

This file has the gradient twice: `surprise` by automatic differentiation, for the oracle and for any network, and
`gradient_factors` by hand, layer by layer as rank-one matrices a g^T, for the dual form. Tests hold one to the other.
"""

import dataclasses
from collections.abc import Callable
from typing import Any, Literal, get_args

import jax
import jax.numpy as jnp
from jaxtyping import Float

from titans_jax.memory.networks import (
    MLPNetwork,
    apply_network,
    last_product,
    normalise,
    output,
    sigmoid,
)
from titans_jax.tiles.matrices import NN, NT, dot, solve_unit_lower
from titans_jax.typing import Array, FastWeights, PyTree

Anchor = Literal["chunk", "token"]
Read = Literal["after", "before"]
Bound = Literal["none", "gradient", "features"]

CURVATURE_EPSILON = 1e-6

#: A user's own memory network: ``(weights, x [K]) -> y [K]``, pure. Gradients come from ``jax.grad``.
NetworkFunction = Callable[[PyTree, Float[Array, "K"]], Float[Array, "K"]]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Rule:
    """The inner step (module docstring). A pytree of ``gain`` and ``base``; the rest is static.

    Attributes:
        network: the memory network: an `MLPNetwork`, or any pure function of its weights and one vector.
        anchor: where gradients are taken: at the "chunk"'s start, or with the last layer's error just before each
            "token".
        read: y_t from M_t ("after" the write) or M_{t-1} ("before").
        bound: what a token's gradient is divided by, if that is more than 1, so that a deep memory's step is as stable
            as a linear one's whatever its weights (networks.py): nothing, the curvature of the loss along its
            "gradient", or that along the last layer's "features" alone. A linear memory needs no bound and gets none.
        lower_step: factor on the steps of the layers below the last.
        gain: gain of the "residual" network's norm, ``[H, 1, K]``; one head's is ``[1, K]``.
        base: B, to which the memory decays where it forgets, a pytree of ``[H, ...]`` like the weights; None: zero.
    """

    network: Any = dataclasses.field(metadata={"static": True})
    anchor: Anchor = dataclasses.field(default="chunk", metadata={"static": True})
    read: Read = dataclasses.field(default="after", metadata={"static": True})
    bound: Bound = dataclasses.field(default="none", metadata={"static": True})
    lower_step: float = dataclasses.field(default=1.0, metadata={"static": True})
    gain: Any = None
    base: Any = None

    def __post_init__(self):
        for name, kind in (("anchor", Anchor), ("read", Read), ("bound", Bound)):
            value = getattr(self, name)
            if value not in get_args(kind):
                raise ValueError(f"{name} must be one of {get_args(kind)}, got {value!r}")
        for name, value, others in (
            ("anchor", "token", "'chunk'"),
            ("bound", "features", "'gradient' or 'none'"),
        ):
            if getattr(self, name) == value and not self.dense:
                raise ValueError(
                    f"{name} must be {others} where network is a function, which has no last layer; got {value!r}"
                )

    @property
    def dense(self) -> bool:
        """Whether the network is built in, so that there is a dual form."""
        return isinstance(self.network, MLPNetwork)

    @property
    def linear(self) -> bool:
        """Whether the memory is a single matrix."""
        return self.dense and self.network.linear

    @property
    def bounded(self) -> bool:
        """Whether a token's gradient is divided by something."""
        return self.bound != "none" and not self.linear

    def function(self) -> NetworkFunction:
        """The network as a function of its fast weights and one vector; of one head's rule."""
        if not self.dense:
            return self.network
        return lambda weights, x: apply_network(self.network, weights, self.gain, x[None])[0]

    def forget(self, keep: Array | None, weights: PyTree) -> PyTree:
        """What is left of one head's weights M where it keeps ``keep``: B + keep (M - B).

        Args:
            keep: 1 - alpha; None: nothing is forgotten.
            weights: M of one head.
        """
        if keep is None:
            return weights
        if self.base is None:
            return jax.tree.map(lambda m: keep * m, weights)
        return jax.tree.map(lambda m, b: b + keep * (m - b), weights, self.base)


def surprise(
    rule: Rule,
    anchor: PyTree,
    weights: PyTree,
    k: Float[Array, "K"],
    v: Float[Array, "K"],
) -> tuple[Float[Array, ""], PyTree]:
    """The loss that a token is written for, and the gradient u with which it is (Eq. 12), by ``jax.grad``.

    Args:
        rule: of one head.
        anchor: M at the start of the token's chunk.
        weights: M just before the token.
        k: key.
        v: value.
    """
    if not rule.dense:
        value, u = jax.value_and_grad(lambda m: jnp.sum((rule.network(m, k) - v) ** 2))(anchor)
        shrink = _step_factor(_squares(u), value) if rule.bounded else 1.0
        return value, jax.tree.map(lambda x: shrink * x, u)

    def product(weights):
        return last_product(rule.network, weights, k[None])

    def loss(z):
        return jnp.sum((output(rule.network, rule.gain, k[None], z) - v) ** 2)

    z0, pullback = jax.vjp(product, anchor)
    value, g = jax.value_and_grad(loss)(z0)
    factor: Any = 1.0
    if rule.bound == "gradient" and rule.bounded:
        factor = _step_factor(_squares(pullback(g)), value)
    curvature = 1.0 if rule.network.kind == "mlp" else _curvature(jnp.sum(g * g), value)
    if rule.bound == "features" and rule.bounded:
        features = jax.grad(lambda last: jnp.sum(product((*anchor[:-1], last))))(anchor[-1])
        factor = 1.0 / jnp.maximum(curvature * jnp.sum(features[:, 0] ** 2), 1.0)
    if rule.anchor == "token":
        z = product((*anchor[:-1], weights[-1]))
        g, value = g + 2.0 * curvature * (z - z0), loss(z)
    (*lower, top) = pullback(factor * g)[0]
    return value, (*(rule.lower_step * u for u in lower), top)


def gradient_factors(
    rule: Rule,
    anchor: FastWeights,
    k: Float[Array, "R K"],
    v: Float[Array, "R K"],
    current: Callable[[Array], tuple[Array, Array | None]] | None = None,
) -> tuple[tuple[Array, ...], tuple[Array, ...]]:
    """Inputs a_l and errors g_l of every layer, so that the gradient of token i is a_l[i] g_l[i]^T.

    Args:
        rule: of one head, its network built in.
        anchor: M at the chunk's start, one matrix ``[d_in, d_out]`` per layer.
        k: keys.
        v: values.
        current: for ``anchor="token"``: from the features h, what the last layer makes of them without this tile's
            writes, ``[R, O]``, and how much of token i's written h_i^T g_i token t finds, ``[R, R]`` below the diagonal
            (None: nothing).

    Returns:
        ``(inputs, errors)``, tuples over layers of ``[R, d_in]`` and ``[R, d_out]``.
    """
    operand = k.dtype
    inputs, slopes = [k], []
    z = dot(k, anchor[0], NN, operand)  # [R, F]
    for matrix in anchor[1:]:
        gate = sigmoid(z)
        hidden = z * gate
        inputs.append(hidden)
        slopes.append(gate + hidden * (1.0 - gate))  # derivative of SiLU
        z = dot(hidden, matrix, NN, operand)

    def propagated(error, lower=1.0):
        below = error if lower == 1.0 else lower * error
        errors = [error]
        for layer in range(rule.network.depth - 1, 0, -1):
            below = dot(below, anchor[layer], NT, operand) * slopes[layer - 1]  # [R, F]
            errors.insert(0, below)
        return errors

    error = output(rule.network, rule.gain, k, z) - v  # [R, K]
    loss = _square(error)  # [R, 1]
    error, curvature = 2.0 * error, None
    if rule.network.kind == "residual":
        normal, scale = normalise(z)
        error = error * rule.gain
        error = scale * (
            error
            - jnp.mean(error, axis=-1, keepdims=True)
            - normal * jnp.mean(error * normal, axis=-1, keepdims=True)
        )
        curvature = _curvature(_square(error), loss)
    factor: Any = None
    errors = None
    if rule.bounded and rule.bound == "gradient":
        errors = propagated(error)
        squares = sum(
            _square(a.astype(g.dtype)) * _square(g) for a, g in zip(inputs, errors, strict=True)
        )
        factor = _step_factor(squares, loss)  # [R, 1]
    elif rule.bounded:
        square = _square(inputs[-1].astype(z.dtype))
        square = square if curvature is None else curvature * square
        factor = 1.0 / jnp.maximum(square, 1.0)
    if rule.anchor == "token":
        now, coupling = current(inputs[-1])
        step: Any = 2.0
        if curvature is None:
            error = 2.0 * (now - v)
        else:
            error, step = error + 2.0 * curvature * (now - z), 2.0 * curvature
        if factor is not None:
            error, step = factor * error, factor * step
        if coupling is not None:
            error = solve_unit_lower(step * coupling, error, operand)
    elif errors is not None:  # of the bound, at the same anchor
        lower = factor if rule.lower_step == 1.0 else rule.lower_step * factor
        return tuple(inputs), (*(lower * g for g in errors[:-1]), factor * errors[-1])
    elif factor is not None:
        error = factor * error
    return tuple(inputs), tuple(propagated(error, rule.lower_step))


def _curvature(gradient_square: Array, loss: Array) -> Array:
    return gradient_square / (4.0 * loss + CURVATURE_EPSILON)


def _step_factor(gradient_square: Array, loss: Array) -> Array:
    return 1.0 / jnp.maximum(_curvature(gradient_square, loss), 1.0)


def _square(x: Array) -> Array:
    return jnp.sum(x * x, axis=-1, keepdims=True)


def _squares(tree: PyTree) -> Array:
    total: Any = sum(jnp.sum(x * x) for x in jax.tree.leaves(tree))
    return total
