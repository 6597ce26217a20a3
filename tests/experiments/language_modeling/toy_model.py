"""A bigram model whose every probability can be worked out by hand."""

import jax.numpy as jnp
import numpy as np
from flax import nnx

from titans_jax import TitansConfig


class Bigram(nnx.Module):
    """The next byte depends on the last alone: after `a` comes `b` with three times the weight of each other byte."""

    def __init__(self):
        logits = np.zeros((256, 256))
        logits[ord("a"), ord("b")] = np.log(3.0)
        self.config = TitansConfig(vocab_size=256)
        self.table = nnx.Param(jnp.asarray(logits))

    def __call__(self, tokens, reset=None):
        return self.table[...][tokens], None


#: The probability of `b` after `a`, of any other byte after `a`, and of any byte after any other.
LIKELY, UNLIKELY, EVEN = 3 / 258, 1 / 258, 1 / 256
