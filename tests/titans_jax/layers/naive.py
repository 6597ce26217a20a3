"""Attention in numpy with a full score matrix, pair by pair: what the banded code must equal."""

import numpy as np


def turn(x, positions, base):
    """Rotary embedding as complex numbers: feature pair (i, i + K/2) times exp(1j * position * frequency)."""
    half = x.shape[-1] // 2
    frequency = base ** -(np.arange(half) / half)
    pairs = x[..., :half] + 1j * x[..., half:]
    return pairs * np.exp(1j * positions[:, None, None] * frequency)


def score(turned_query, turned_key):
    return (turned_query * turned_key.conj()).sum().real


def attention(q, k, v, prefix_keys, prefix_values, visible, query_position, key_position, base):
    """One sequence: q [Q H K], k and v [S H K], prefix [P H K], visible [Q S]."""
    q, k, v, prefix_keys, prefix_values = map(np.asarray, (q, k, v, prefix_keys, prefix_values))
    turned_q, turned_k = turn(q, query_position, base), turn(k, key_position, base)
    out = np.zeros(q.shape)
    for i, head in np.ndindex(q.shape[:2]):
        scores = [q[i, head] @ key[head] for key in prefix_keys]
        values = [value[head] for value in prefix_values]
        for j in range(len(k)):
            if visible[i, j]:
                scores.append(score(turned_q[i, head], turned_k[j, head]))
                values.append(v[j, head])
        if scores:  # padding may see nothing
            weights = np.exp(np.array(scores) / np.sqrt(q.shape[-1]))
            out[i, head] = (weights / weights.sum()) @ np.array(values)
    return out


def causal_visibility(window, mask, reset):
    """What each token of one sequence sees, [T T], by the definition of window, padding and document."""
    length = len(mask)
    document = np.cumsum(reset)
    visible = np.zeros((length, length), bool)
    for i in range(length):
        for j in range(i + 1):
            visible[i, j] = i - j < window and mask[j] and document[i] == document[j]
    return visible
