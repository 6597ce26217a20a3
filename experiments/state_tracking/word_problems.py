"""The groups whose words are to be tracked: tables of products.

A word g_1 g_2 .. g_n is solved at place t by the product of its first t elements. Parity (Z2) and Z60 are commutative,
A5 and S5 are not solvable: their word problem is complete for NC1, beyond what the circuits of TC0 are believed to do.
"""

import functools
import itertools
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from jaxtyping import Int


class Group(NamedTuple):
    """A finite group, its elements numbered from 0, the identity.

    Attributes:
      name: of the group.
      product: ``product[a, b]`` is a b, which for permutations means b first.
      letters: the elements that words are made of: all, or generators of the group.
    """

    name: str
    product: Int[np.ndarray, "n n"]
    letters: Int[np.ndarray, " m"]

    @property
    def order(self) -> int:
        """Number of elements."""
        return self.product.shape[0]

    def prefix_products(self, words: Int[np.ndarray, "B T"]) -> Int[np.ndarray, "B T"]:
        """The product g_t .. g_2 g_1 at every place: each element acts on what was before it."""
        products = np.zeros_like(words)
        state = np.zeros(words.shape[0], words.dtype)
        for place in range(words.shape[1]):
            state = self.product[words[:, place], state]
            products[:, place] = state
        return products


def cyclic(order: int) -> Group:
    """The integers modulo `order` under addition."""
    numbers = np.arange(order)
    return Group(f"Z{order}", np.add.outer(numbers, numbers) % order, numbers)


def permutations(degree: int, *, even: bool) -> Group:
    """The symmetric group of a degree, or its even half, the alternating group."""
    elements = [p for p in itertools.permutations(range(degree)) if not (even and _is_odd(p))]
    number = {p: i for i, p in enumerate(elements)}
    product = [[number[tuple(a[i] for i in b)] for b in elements] for a in elements]
    return Group(f"{'A' if even else 'S'}{degree}", np.array(product), np.arange(len(elements)))


def _is_odd(permutation: tuple[int, ...]) -> bool:
    inversions = sum(a > b for a, b in itertools.combinations(permutation, 2))
    return inversions % 2 == 1


def swaps(degree: int) -> Group:
    """The symmetric group of a degree in words of its transpositions and the identity.

    Still not solvable, but each letter is one reflection of the permuted axes, which is what one step of a linear
    memory with |k| = 1 and theta = 1 does; a permutation of n things may need n - 1 of them.
    """
    whole = permutations(degree, even=False)
    elements = list(itertools.permutations(range(degree)))
    moved = [sum(i != x for i, x in enumerate(p)) for p in elements]
    letters = np.array([i for i, number in enumerate(moved) if number in (0, 2)])
    return Group(f"S{degree} swaps", whole.product, letters)


_MAKERS: dict[str, Callable[[], Group]] = {
    "parity": lambda: cyclic(2)._replace(name="parity"),
    "s5_swaps": lambda: swaps(5),
    "z60": lambda: cyclic(60),
    "a5": lambda: permutations(5, even=True),
    "s5": lambda: permutations(5, even=False),
}
GROUPS = tuple(_MAKERS)


@functools.cache
def group(name: str) -> Group:
    """A group by name.

    Args:
      name: one of `GROUPS`.

    Raises:
      ValueError: for any other name.
    """
    if name not in _MAKERS:
        raise ValueError(f"config.groups: {name!r} is none of {GROUPS}")
    return _MAKERS[name]()
