"""Token ids that come from outside are checked where their values are known: on the host, before anything compiles.

Inside a compiled function an id is not known. There a model gives NaN for one outside its vocabulary, and so does the
loss for a target that counts.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np


def require_token_ids(name: str, tokens: Any, vocab_size: int) -> None:
    """Checks an array of token ids of a batch; the values only where they are known.

    Args:
        name: of the argument, for the message.
        tokens: what was given; must be integers ``[B T]``, B and T at least 1.
        vocab_size: V; every id must lie in [0, V).

    Raises:
        ValueError: naming the argument.
    """
    if not isinstance(tokens, np.ndarray | jax.Array):
        raise ValueError(f"{name} must be an array of token ids, got {type(tokens).__name__}")
    if tokens.ndim != 2 or 0 in tokens.shape:
        raise ValueError(f"{name} must have shape [batch, length], got {tokens.shape}")
    if not jnp.issubdtype(tokens.dtype, jnp.integer):
        raise ValueError(f"{name} must be integers, got dtype {tokens.dtype}")
    if isinstance(tokens, np.ndarray):
        require_in_vocabulary(name, tokens, vocab_size)
    elif not isinstance(tokens, jax.core.Tracer) and tokens.is_fully_addressable:
        require_in_vocabulary(name, np.asarray(tokens), vocab_size)


def require_in_vocabulary(name: str, ids: np.ndarray, vocab_size: int) -> None:
    """Raises a ValueError that names the first end of the range that ids lie beyond.

    Args:
        name: of the argument.
        ids: integers, at least one.
        vocab_size: V.
    """
    least, most = ids.min(), ids.max()
    if least < 0 or most >= vocab_size:
        wrong = least if least < 0 else most
        raise ValueError(
            f"{name} must lie in [0, {vocab_size}), the model's vocabulary, got {wrong}"
        )
