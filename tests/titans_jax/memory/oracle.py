"""The memory in numpy, one token of one head at a time, with the inner gradient written out by hand.

It shares no line with the library and uses no automatic differentiation, so that the library's own
token-by-token execution, which is the oracle of all others, has an oracle too. Plain MLPs of one and
two layers only; with ``anchor="token"`` the last layer's error is that of the memory just before the token.
"""

import numpy as np


def read_memory(weights, x):
    """M(x): one layer, or two with SiLU between."""
    if len(weights) == 1:
        return x @ weights[0]
    z = x @ weights[0]
    return (z / (1 + np.exp(-z))) @ weights[1]


def loss_gradient(anchor, now, k, v):
    """d ||M(k) - v||^2 / dM (Eq. 12) at the anchor, layer by layer, for the error of ``now``'s last layer."""
    if len(anchor) == 1:
        return [np.outer(k, 2 * (k @ now[0] - v))]
    first, second = anchor
    z = k @ first
    sigmoid = 1 / (1 + np.exp(-z))
    hidden = z * sigmoid
    error = 2 * (hidden @ now[1] - v)
    slope = sigmoid + z * sigmoid * (1 - sigmoid)
    return [np.outer(k, (second @ error) * slope), np.outer(hidden, error)]


def curvature(anchor, k, v, bound):
    """|gradient|^2 / (4 loss), the curvature along the token's own error; of "features" the last layer's alone."""
    gradient = loss_gradient(anchor, anchor, k, v)
    loss = ((read_memory(anchor, k) - v) ** 2).sum()
    counted = gradient if bound == "gradient" else gradient[-1:]
    return sum((layer**2).sum() for layer in counted) / (4 * loss + 1e-6 * (bound == "gradient"))


def one_head(
    m, s, anchor, position, q, k, v, alpha, eta, theta, mask, reset, initial, base, chunk, rule
):
    """Eq. 13-16 for one head; returns the reads, (M, S, anchor) and the position."""
    reads = []
    for t in range(len(q)):
        if reset[t]:
            m, s = initial
            anchor = m
        u = loss_gradient(anchor, anchor if rule.anchor == "chunk" else m, k[t], v[t])
        if rule.bound != "none" and len(anchor) > 1:
            u = [layer / max(1.0, curvature(anchor, k[t], v[t], rule.bound)) for layer in u]
        u = [rule.lower_step * layer for layer in u[:-1]] + u[-1:]
        before = m
        if mask[t]:
            s = [eta[t] * layer - theta[t] * grad for layer, grad in zip(s, u, strict=True)]
            kept = [b + (1 - alpha[t]) * (layer - b) for layer, b in zip(m, base, strict=True)]
            m = [layer + step for layer, step in zip(kept, s, strict=True)]
        reads.append(read_memory(before if rule.read == "before" else m, q[t]))
        position += 1
        if position == chunk:
            position, anchor = 0, m
    return np.stack(reads), (m, s, anchor), position


def memory(inputs, position, mask, reset, rule):
    """Every sequence and head in turn.

    Args:
        inputs: a `cases.Inputs` of numpy arrays.
        position: tokens already in the running chunk, ``[B]``.
        mask: ``[B, T]``.
        reset: ``[B, T]``.
        rule: a `cases.Case`.

    Returns:
        Reads ``[B, T, H, K]``, and M, S and the anchor as tuples of ``[B, H, d_in, d_out]``.
    """
    batch, length, heads, _ = inputs.q.shape
    gates = inputs.gates
    zeros = np.zeros((batch, length, heads))
    alpha = zeros if gates.log_keep is None else 1 - np.exp(gates.log_keep)
    eta = zeros if gates.log_eta is None else np.exp(gates.log_eta)
    y = np.zeros_like(inputs.q)
    state = [[np.zeros_like(x) for x in inputs.weights] for _ in range(3)]
    for b in range(batch):
        for h in range(heads):
            initial = inputs.initial and tuple([x[h] for x in tree] for tree in inputs.initial)
            anchor = inputs.weights if position[b] == 0 else inputs.anchor
            base = [np.zeros_like(x[b, h]) for x in inputs.weights]
            base = base if inputs.base is None else [x[h] for x in inputs.base]
            y[b, :, h], ends, _ = one_head(
                *([x[b, h] for x in tree] for tree in (inputs.weights, inputs.momentum, anchor)),
                int(position[b]),
                *(x[b, :, h] for x in (inputs.q, inputs.k, inputs.v, alpha, eta, gates.theta)),
                mask[b],
                reset[b],
                initial,
                base,
                rule.chunk,
                rule,
            )
            for kind, end in zip(state, ends, strict=True):
                for layer, matrix in zip(kind, end, strict=True):
                    layer[b, h] = matrix
    return y, tuple(tuple(kind) for kind in state)
