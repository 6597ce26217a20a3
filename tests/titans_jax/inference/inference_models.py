"""Tiny models in float32 for the inference tests, whose blocks are small enough to cross every border."""

import functools

import numpy as np
from flax import nnx

from tests.titans_jax.models.tiny_models import moved, tiny_config
from titans_jax.inference import start_stream
from titans_jax.models import Titans

#: Two chunks of 6 tokens; MAC's segment. Blocks are of 6 and 1 tokens: two compilations of each kind.
BLOCK, MAX_LENGTH = 6, 40


@functools.cache
def model(name):
    # TTT normalises what it reads, which makes float32's rounding as large as the tolerance.
    dtype = "float64" if name == "ttt_linear" else "float32"
    graph, parameters = nnx.split(Titans(tiny_config(name, dtype=dtype), rngs=nnx.Rngs(0)))
    return nnx.merge(graph, moved(parameters))


@functools.cache
def _full(name):
    graph, parameters = nnx.split(model(name))
    return nnx.jit(lambda tokens: nnx.merge(graph, parameters)(tokens)[0])


def full_forward(name, tokens):
    """The logits of one call on whole sequences ``[B, T]``, padded to one length: one compilation."""
    padded = np.zeros((tokens.shape[0], MAX_LENGTH), np.int32)
    padded[:, : tokens.shape[1]] = tokens
    return np.asarray(_full(name)(padded))[:, : tokens.shape[1]]


def new_stream(name, batch):
    return start_stream(model(name), batch, MAX_LENGTH)
