"""Splits of sequences without leaks: what shares a long k-mer stays together.

Genomic sets hold overlapping pieces of one locus and copies of repeats. A model that remembers them looks good on a
test part that was drawn at random. Here sequences that share a k-mer of 32, on either strand, are neighbours, and each
connected component goes into one part as a whole.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Int, UInt64
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components

from titans_jax.data.nucleotides import NucleotideTokenizer
from titans_jax.fields import require

K = 32  # two bits a nucleotide: a k-mer is one uint64
FRACTIONS = {"train": 0.7, "valid": 0.1, "test": 0.2}


def kmers(ids: Int[np.ndarray, "T"]) -> UInt64[np.ndarray, " n"]:
    """Every k-mer of a sequence that has no N, each as the smaller of itself and its reverse complement.

    Args:
        ids: of `NucleotideTokenizer()`: A C G T are 0 to 3.
    """
    places = len(ids) - K + 1
    if places < 1:
        return np.zeros(0, np.uint64)
    letters = ids.astype(np.uint64)
    forward, backward = np.zeros(places, np.uint64), np.zeros(places, np.uint64)
    for offset in range(K):
        letter = letters[offset : offset + places] & np.uint64(3)
        forward |= letter << np.uint64(2 * (K - 1 - offset))
        backward |= (np.uint64(3) - letter) << np.uint64(2 * offset)
    unknown = np.concatenate([[0], np.cumsum(ids > 3)])
    whole = unknown[K:] == unknown[:places]
    return np.minimum(forward, backward)[whole]


def groups(sequences: Sequence[Int[np.ndarray, "_"]]) -> Int[np.ndarray, "N"]:
    """The number of each sequence's connected component; equal sequences too short for a k-mer are one.

    Args:
        sequences: token ids of `NucleotideTokenizer()`.
    """
    count = len(sequences)
    tokenizer = NucleotideTokenizer()
    short: dict[bytes, int] = {}
    found, owners, edges = [], [], []
    for index, ids in enumerate(sequences):
        own = kmers(ids)
        found.append(own)
        owners.append(np.full(len(own), index))
        if not len(own):
            strands = (ids.tobytes(), tokenizer.reverse_complement(ids).tobytes())
            edges.append((short.setdefault(min(strands), index), index))
    words, owner = np.concatenate(found), np.concatenate(owners)
    order = np.argsort(words, kind="stable")
    words, owner = words[order], owner[order]
    same = words[1:] == words[:-1]
    pairs = np.concatenate(
        [np.stack([owner[:-1][same], owner[1:][same]], 1), np.reshape(edges, (-1, 2)).astype(int)]
    )
    graph = coo_matrix((np.ones(len(pairs)), (pairs[:, 0], pairs[:, 1])), (count, count))
    return connected_components(graph, directed=False)[1]


def split(
    group: Int[np.ndarray, "N"], seed: int, fractions: dict[str, float] = FRACTIONS
) -> dict[str, Int[np.ndarray, "_"]]:
    """The indices of every part; groups are drawn at random and go where most is missing.

    Args:
        group: number of the group of each sequence.
        seed: of the order in which groups are drawn.
        fractions: of all sequences; the first part gets the groups larger than half of the smallest part.

    Raises:
        ValueError: if a part would be empty.
    """
    sizes = np.bincount(group)
    wanted = {part: fraction * len(group) for part, fraction in fractions.items()}
    filled = dict.fromkeys(fractions, 0)
    chosen = np.zeros(len(sizes), int)
    names = list(fractions)
    drawn = np.random.default_rng(seed).permutation(len(sizes))
    large = sizes[drawn] > min(wanted.values()) / 2
    for number in drawn[large]:
        filled[names[0]] += sizes[number]
    for number in drawn[~large]:
        name = max(names, key=lambda part: (wanted[part] - filled[part]) / wanted[part])
        chosen[number] = names.index(name)
        filled[name] += sizes[number]
    for name, size in filled.items():
        require(
            size > 0, "sequences", len(group), f"enough that every part gets one; {name} got none"
        )
    return {name: np.flatnonzero(chosen[group] == index) for index, name in enumerate(names)}
