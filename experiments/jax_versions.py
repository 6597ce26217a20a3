"""Where the supported versions of JAX differ: nothing else asks which one runs.

Each function here is the difference itself, and names the last JAX that needs its older half: with that version's
support the half goes.
"""

from collections.abc import Mapping
from typing import Any


def scan_counts(params: Mapping[str, Any]) -> tuple[int, int]:
    """How many of a ``scan`` equation's inputs are constants, and how many its carry; the rest are slices.

    Args:
        params: the equation's parameters.
    """
    if "num_consts" in params:  # until jax 0.10
        return params["num_consts"], params["num_carry"]
    consts, carry, _ = params["ft_in"].unpack()
    return len(consts), len(carry)
