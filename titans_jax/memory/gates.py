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
"""

from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Bool, Float

from titans_jax.registry import registered
from titans_jax.typing import Array, PerHead, TokenFlags

Read = Literal["after", "before"]

#: The smallest logarithm of a decay: exp(-80) = 2e-35 is zero for every purpose, and sums of a few
#: such numbers are still resolved well in float32.
LOG_ZERO = -80.0


@registered
class Gates(NamedTuple):
    """Gates per token and head, kept as logarithms where they multiply.

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
    1 - eta keeps the total step of a gradient, theta / (1 - eta), bounded whatever the momentum;
    ``step_size`` is c / chunk, because the gradients of a chunk add up at one anchor. Without these
    two factors the inner step's curvature passes 2 and the memory diverges.

    Args:
        logits: ``[B, T, 3, H]``, for alpha, eta and theta.
        step_size: c / chunk.
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
    """Makes masked tokens keep the weights, keep the momentum and write nothing."""
    flags = mask[..., None]

    def zero(x):
        return None if x is None else jnp.where(flags, x, jnp.zeros((), x.dtype))

    return Gates(zero(gates.log_keep), zero(gates.log_eta), zero(gates.theta))


class TileGates(NamedTuple):
    """The gates of one tile as 2-D arrays, rows and columns both, so that no kernel transposes.

    ``keep`` and ``eta`` hold inclusive cumulative sums of log(1 - alpha) and log(eta) from the
    tile's first token; ``read_keep`` is ``keep`` for reading after the write and its exclusive
    counterpart for reading before it. ``moves`` is 1 for a real token and 0 for a masked one.
    None stands for a gate that is switched off.
    """

    keep_row: Float[Array, "1 R"] | None
    keep_col: Float[Array, "R 1"] | None
    keep_end: Float[Array, "1 1"] | None
    read_keep_col: Float[Array, "R 1"] | None
    eta_row: Float[Array, "1 R"] | None
    eta_col: Float[Array, "R 1"] | None
    eta_end: Float[Array, "1 1"] | None
    theta_row: Float[Array, "1 R"]
    theta_col: Float[Array, "R 1"]
    moves_row: Float[Array, "1 R"] | None
    moves_col: Float[Array, "R 1"] | None


class GateSums(NamedTuple):
    """Gates of tiles ``[..., R, H]`` with cumulative sums of the logarithms within each tile.

    Attributes:
        keep: sum of log(1 - alpha) up to and with each token, or None for no forgetting.
        read_keep: the same for the read: ``keep`` after the write, without the token before it.
        eta: sum of log(eta), or None for no momentum.
        theta: the inner learning rate.
    """

    keep: Float[Array, "*tiles R H"] | None
    read_keep: Float[Array, "*tiles R H"] | None
    eta: Float[Array, "*tiles R H"] | None
    theta: Float[Array, "*tiles R H"]


def gate_sums(gates: Gates, read: Read) -> GateSums:
    """Sums the logarithms of all tiles at once.

    Outside the loop over chunks, because a cumulative sum inside it is a slow window reduction. By a
    scan, because two sums that share their first part then share its rounding, which a product with a
    triangle of ones would not let them.

    Args:
        gates: fields ``[..., R, H]``, already passed through `mask_gates` where there is a mask.
        read: "after" for y_t = M_t(q_t), "before" for y_t = M_{t-1}(q_t).
    """

    def cumulative(log_decay):
        if log_decay is None:
            return None
        return jax.lax.associative_scan(jnp.add, log_decay, axis=log_decay.ndim - 2)

    keep = read_keep = cumulative(gates.log_keep)
    if read == "before" and keep is not None:
        read_keep = keep - gates.log_keep
    return GateSums(keep, read_keep, cumulative(gates.log_eta), gates.theta)


def tile_gates(sums: GateSums, mask: Bool[Array, "R"] | None) -> TileGates:
    """One tile's gates as rows and columns.

    Args:
        sums: one head's, fields ``[R]``.
        mask: ``[R]`` or None.
    """

    def row(x):
        return None if x is None else x[None, :]  # [1, R]

    def col(x):
        return None if x is None else x[:, None]  # [R, 1]

    def end(x):
        return None if x is None else x[None, -1:]  # [1, 1]

    moves = None if mask is None else mask.astype(sums.theta.dtype)
    return TileGates(
        keep_row=row(sums.keep),
        keep_col=col(sums.keep),
        keep_end=end(sums.keep),
        read_keep_col=col(sums.read_keep),
        eta_row=row(sums.eta),
        eta_col=col(sums.eta),
        eta_end=end(sums.eta),
        theta_row=row(sums.theta),
        theta_col=col(sums.theta),
        moves_row=row(moves),
        moves_col=col(moves),
    )


class Decays(NamedTuple):
    """How the state before a tile and the tile's gradients enter a read and the tile's end.

    A read at token t uses ``keep_t M_0 + carry_t S_0 - sum_i write[t, i] u_i``; at the end of the
    tile M is ``end_keep M_0 + end_carry S_0 - sum_i end_write_i u_i`` and S is
    ``end_eta S_0 - sum_i end_momentum_i u_i``. theta is inside ``write`` and the two ``end`` columns.
    """

    keep: Float[Array, "R 1"] | None
    carry: Float[Array, "R 1"] | None
    write: Float[Array, "R R"]
    end_keep: Float[Array, "1 1"] | None
    end_carry: Float[Array, "1 1"] | None
    end_eta: Float[Array, "1 1"] | None
    end_write: Float[Array, "R 1"]
    end_momentum: Float[Array, "R 1"] | None


def decay_matrices(gates: TileGates, read: Read) -> Decays:
    """Db, De and their product for one tile, on 2-D arrays only (module docstring).

    Args:
        gates: from `tile_gates`, one tile.
        read: "after" or "before"; must be the one given to `gate_sums`.
    """
    length = gates.theta_row.shape[-1]
    dtype = gates.theta_row.dtype
    row = jax.lax.broadcasted_iota(jnp.int32, (length, length), 0)
    col = jax.lax.broadcasted_iota(jnp.int32, (length, length), 1)
    sees = row >= col if read == "after" else row > col

    def lower(log_col, log_row, allowed):  # [R, R]
        if log_col is None:
            return allowed.astype(dtype)
        return jnp.exp(jnp.where(allowed, log_col - log_row, -jnp.inf))

    forget = lower(gates.read_keep_col, gates.keep_row, sees)  # Db, [R, R]
    if gates.keep_col is None:
        end_forget = jnp.ones((length, 1), dtype)
    else:
        end_forget = jnp.exp(gates.keep_end - gates.keep_col)  # last row of Db as a column, [R, 1]
    if gates.moves_row is not None:
        forget = forget * gates.moves_row
        end_forget = end_forget * gates.moves_col
    keep = None if gates.read_keep_col is None else jnp.exp(gates.read_keep_col)
    end_keep = None if gates.keep_end is None else jnp.exp(gates.keep_end)
    if gates.eta_row is None:
        # eta = 0: S_t = -theta_t u_t, and nothing of S_0 survives.
        end_write = end_forget * gates.theta_col
        return Decays(keep, None, forget * gates.theta_row, end_keep, None, None, end_write, None)
    momentum = lower(gates.eta_col, gates.eta_row, row >= col) * gates.theta_row  # De theta, [R, R]
    eta = jnp.exp(gates.eta_col)  # [R, 1]
    return Decays(
        keep=keep,
        carry=jnp.sum(forget * jnp.exp(gates.eta_row), axis=1, keepdims=True),
        write=jnp.dot(forget, momentum, preferred_element_type=dtype),
        end_keep=end_keep,
        end_carry=jnp.sum(end_forget * eta, axis=0, keepdims=True),
        end_eta=jnp.exp(gates.eta_end),
        end_write=column(jnp.sum(end_forget * momentum, axis=0, keepdims=True)),
        end_momentum=jnp.exp(gates.eta_end - gates.eta_col) * gates.theta_col,
    )


def column(row: Float[Array, "1 R"]) -> Float[Array, "R 1"]:
    """A row as a column by a masked sum: a reshape of lanes to sublanes does not lower on every TPU."""
    length = row.shape[-1]
    i = jax.lax.broadcasted_iota(jnp.int32, (length, length), 0)
    j = jax.lax.broadcasted_iota(jnp.int32, (length, length), 1)
    return jnp.sum(jnp.where(i == j, row, 0.0), axis=1, keepdims=True)
