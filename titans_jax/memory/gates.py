"""The three gates of the memory and the decay matrices they imply (Eq. 10, 13, 14).

Token recurrence of one head, with scalar gates per token:

    S_t = eta_t S_{t-1} - theta_t u_t                 (Eq. 10, 14)
    M_t = (1 - alpha_t) M_{t-1} + S_t                 (Eq. 13)

Within a tile everything is linear in the state before it, (M_0, S_0), and in the gradients u_i:

    Db[t, s] = prod_{s<j<=t} (1 - alpha_j)     De[s, i] = prod_{i<j<=s} eta_j     (0 above the diagonal)
    M_t = beta_t M_0 + c_t S_0 - sum_i (Db @ De)[t, i] theta_i u_i
    beta_t = prod_{j<=t} (1 - alpha_j)         c_t = sum_s Db[t, s] prod_{j<=s} eta_j

The products are differences of cumulative sums of logarithms, subtracted before ``exp``; nothing
is ever divided by a product that may underflow. A masked token is an identity step: it neither
decays nor writes, and M does not move by S either, so its column of Db is zero in Db @ De and in c.

Where forgetting goes to some weights B rather than to zero, M stands for M - B in all of this (rule.py).
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Float

from titans_jax.memory.rule import Read
from titans_jax.registry import registered
from titans_jax.tiles.matrices import column, last, places
from titans_jax.typing import Array, PerHead, TokenFlags

#: The smallest logarithm of a decay: exp(-80) = 2e-35 is zero for every purpose, and sums of a few
#: such numbers are still resolved well in float32.
LOG_ZERO = -80.0


@registered
class Gates(NamedTuple):
    """Gates per token and head, kept as logarithms where they multiply.

    Between `summed` and `decays` they are those of tiles, the logarithms summed from each tile's first token on.

    Attributes:
        log_keep: log(1 - alpha), ``[B, T, H]``, or None for no forgetting (alpha = 0).
        log_eta: log(eta), ``[B, T, H]``, or None for no momentum (eta = 0).
        theta: the inner learning rate, ``[B, T, H]``.
    """

    log_keep: PerHead | None
    log_eta: PerHead | None
    theta: PerHead

    @classmethod
    def from_values(cls, alpha: PerHead | None, eta: PerHead | None, theta: PerHead) -> "Gates":
        """Gates from the paper's alpha (forget), eta (momentum) and theta (step); each in [0, 1].

        ``alpha = 1`` and ``eta = 0`` become a decay of exp(-80), with a gradient of zero there.

        Args:
            alpha: share that is forgotten; None for no forgetting.
            eta: share of the momentum that is kept; None for no momentum.
            theta: step size.
        """
        return cls(
            log_keep=None if alpha is None else _safe_log(1.0 - alpha),
            log_eta=None if eta is None else _safe_log(eta),
            theta=theta,
        )


def _safe_log(x: Array) -> Array:
    positive = x > jnp.exp(jnp.asarray(LOG_ZERO, x.dtype))
    return jnp.where(positive, jnp.log(jnp.where(positive, x, 1.0)), LOG_ZERO)


def gates_from_logits(
    logits: Float[Array, "B T 3 H"],
    *,
    step_size: float,
    momentum: bool,
    forget: bool,
) -> Gates:
    """The gates of the layer (§3.2, "functions of tokens"), from one linear map of the input.

    alpha = sigmoid(a), eta = sigmoid(e), theta = step_size (1 - eta) sigmoid(t). Scaling theta by
    1 - eta keeps the total step of a gradient, theta / (1 - eta), bounded whatever the momentum. Where the gradients
    of a chunk add up at one anchor, ``step_size`` is c / chunk. Without these factors the inner step's curvature passes
    2 and the memory diverges.

    Args:
        logits: ``[B, T, 3, H]``, for alpha, eta and theta.
        step_size: largest total step.
        momentum: False for eta = 0.
        forget: False for alpha = 0.
    """
    alpha_logit, eta_logit, theta_logit = (logits[:, :, i] for i in range(3))
    theta = step_size * jax.nn.sigmoid(theta_logit)
    return Gates(
        log_keep=jnp.maximum(jax.nn.log_sigmoid(-alpha_logit), LOG_ZERO) if forget else None,
        log_eta=jnp.maximum(jax.nn.log_sigmoid(eta_logit), LOG_ZERO) if momentum else None,
        theta=theta * jax.nn.sigmoid(-eta_logit) if momentum else theta,
    )


def mask_gates(gates: Gates, mask: TokenFlags) -> Gates:
    """Makes masked tokens keep the weights, keep the momentum and write nothing.

    Args:
        gates: fields ``[B, T, H]``.
        mask: False for tokens that change nothing.
    """
    flags = mask[..., None]

    def zero(x):
        return None if x is None else jnp.where(flags, x, jnp.zeros((), x.dtype))

    return Gates(zero(gates.log_keep), zero(gates.log_eta), zero(gates.theta))


def summed(gates: Gates) -> Gates:
    """The gates of tiles with their logarithms summed up to and with each token.

    Outside the loop over tiles, because a cumulative sum inside it is a slow window reduction. By a
    scan, because two sums that share their first part then share its rounding, which a product with a
    triangle of ones would not let them.

    Args:
        gates: fields ``[..., R, H]``, already passed through `mask_gates` where there is a mask.
    """

    def cumulative(log_decay):
        if log_decay is None:
            return None
        return jax.lax.associative_scan(jnp.add, log_decay, axis=log_decay.ndim - 2)

    return Gates(cumulative(gates.log_keep), cumulative(gates.log_eta), gates.theta)


class Decays(NamedTuple):
    """How the state before a tile and the tile's gradients enter a read and the tile's end.

    A read at token t uses ``keep_t M_0 + carry_t S_0 - sum_i write[t, i] u_i``; at the end of the
    tile M is ``end_keep M_0 + end_carry S_0 - sum_i end_write_i u_i`` and S is
    ``end_eta S_0 - sum_i end_momentum_i u_i``. theta is inside ``write`` and the two ``end`` columns.
    None stands for a gate that is switched off.
    """

    keep: Float[Array, "R 1"] | None
    carry: Float[Array, "R 1"] | None
    write: Float[Array, "R R"]
    end_keep: Float[Array, "1 1"] | None
    end_carry: Float[Array, "1 1"] | None
    end_eta: Float[Array, "1 1"] | None
    end_write: Float[Array, "R 1"]
    end_momentum: Float[Array, "R 1"] | None


def decays(
    gates: Gates,
    moves: Float[Array, "1 R"] | None,
    read: Read,
    turn: Callable[[Float[Array, "1 R"]], Float[Array, "R 1"]] = column,
) -> Decays:
    """Db, De and their product for one tile of one head, on 2-D arrays only (module docstring).

    Args:
        gates: from `summed`, fields ``[1, R]``.
        moves: 1 for a token and 0 for a masked one; None: all are tokens.
        read: M after each token ("after") or before it ("before").
        turn: makes a column of a row; kernels need `column`, elsewhere a transpose is free.
    """
    length = gates.theta.shape[-1]
    dtype = gates.theta.dtype
    row, col = places(length)
    sees = row >= col if read == "after" else row > col

    def turned(x):
        return None if x is None else turn(x)

    def lower(log_col, log_row, allowed):  # [R, R]
        if log_col is None:
            return allowed.astype(dtype)
        return jnp.exp(jnp.where(allowed, log_col - log_row, -jnp.inf))

    kept = read_kept = turned(gates.log_keep)  # [R, 1]
    if kept is not None and read == "before":
        read_kept = before_token(gates.log_keep)
    forget = lower(read_kept, gates.log_keep, sees)  # Db, [R, R]
    if kept is None:
        keep = end_keep = None
        end_forget = jnp.ones((length, 1), dtype)
    else:
        end = last(gates.log_keep)  # [1, 1]
        keep, end_keep = jnp.exp(read_kept), jnp.exp(end)
        end_forget = jnp.exp(end - kept)  # last row of Db as a column, [R, 1]
    if moves is not None:
        forget = forget * moves
        end_forget = end_forget * turn(moves)
    theta = turn(gates.theta)  # [R, 1]
    if gates.log_eta is None:
        # eta = 0: S_t = -theta_t u_t, and nothing of S_0 survives.
        end_write = end_forget * theta
        return Decays(keep, None, forget * gates.theta, end_keep, None, None, end_write, None)
    log_eta, end = turn(gates.log_eta), last(gates.log_eta)
    momentum = lower(log_eta, gates.log_eta, row >= col) * gates.theta  # De theta, [R, R]
    return Decays(
        keep=keep,
        carry=jnp.sum(forget * jnp.exp(gates.log_eta), axis=1, keepdims=True),
        write=jnp.dot(forget, momentum, preferred_element_type=dtype),
        end_keep=end_keep,
        end_carry=jnp.sum(end_forget * jnp.exp(log_eta), axis=0, keepdims=True),
        end_eta=jnp.exp(end),
        end_write=turn(jnp.sum(end_forget * momentum, axis=0, keepdims=True)),
        end_momentum=jnp.exp(end - log_eta) * theta,
    )


def before_token(sums: Float[Array, "1 R"]) -> Float[Array, "R 1"]:
    """Sums up to and with each token as a column of sums up to the token before.

    Args:
        sums: of logarithms, from `summed`.
    """
    row, col = places(sums.shape[-1])
    return jnp.sum(jnp.where(row == col + 1, sums, 0.0), axis=1, keepdims=True)
