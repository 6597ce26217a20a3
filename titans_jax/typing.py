"""Dimension letters and array aliases of the whole library, in one place.

Every shape in an annotation or a comment of this project is spelt with these letters:

    B   batch (sequences)                        T   length (tokens)
    D   model dimension                          H   heads
    K   head dimension, D // H                   F   hidden width of the memory network
    C   chunk: tokens that share one gradient anchor (the paper's b)
    R   tile: tokens handled by one matmul (an implementation detail)
    N   chunks (or tiles) of a sequence          L   layers
    P   persistent tokens                        W   attention window
    V   vocabulary                               G   groups: independent memories, B * H

Arrays are annotated with jaxtyping: ``Float[Array, "B T D"]``.
"""

from typing import Any, NamedTuple

import jax
from jaxtyping import Bool, Float, Int

from titans_jax.registry import registered

Array = jax.Array

#: Fast weights of one kind (M, S or the anchor): one matrix per layer of the memory network.
#: Inside the mathematics a matrix is ``[d_in, d_out]``; in a state it has leading axes ``[B, H]``.
FastWeights = tuple[Array, ...]

#: Any pytree of arrays.
PyTree = Any

#: Queries, keys or values of a batch, split into heads.
Heads = Float[Array, "B T H K"]

#: One number per token and head, e.g. a gate.
PerHead = Float[Array, "B T H"]

#: One flag per token.
TokenFlags = Bool[Array, "B T"]

#: Token ids.
Tokens = Int[Array, "B T"]


@registered
class Flags(NamedTuple):
    """What a call says of its tokens, handed down through the layers of a model.

    Attributes:
        mask: False where a token is padding: it changes nothing but keeps its place in its chunk.
        reset: True where a document starts, at the first token of a chunk (of a segment, for MAC).
        freeze: read the memory without writing.
        aligned: the caller's promise that the state is at a chunk's (for MAC a segment's) start, which is faster.
    """

    mask: TokenFlags | None = None
    reset: TokenFlags | None = None
    freeze: bool = False
    aligned: bool = False


#: Nothing is said: every token counts, no document starts.
NO_FLAGS = Flags()
