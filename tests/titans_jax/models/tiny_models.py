"""Tiny models of every variant in float64, built and compiled once for all test modules."""

import functools

import jax
import jax.numpy as jnp
from flax import nnx

from titans_jax.config import EXPANSIONS, HYBRIDS, MemoryConfig, RecurrenceConfig, TitansConfig
from titans_jax.models import Titans

TITANS = ("mac", "mag", "mal", "lmm", "transformer", "windowed_transformer")
BASELINES = (*EXPANSIONS, *HYBRIDS)
VARIANTS = (*TITANS, *BASELINES)
#: One of each kind of state: segments, a window beside a memory, a memory alone, keys of all tokens, of a window, and
#: recurrences with a decay, with a delta rule and with mini-batches. What all variants share is tested on these.
KINDS = (
    "mac",
    "mag",
    "lmm",
    "transformer",
    "windowed_transformer",
    "mamba2",
    "gated_deltanet",
    "ttt_linear",
)
VOCABULARY = 11
CHUNK, SEGMENT, WINDOW = 3, 6, 5
BATCH, LENGTH = 2, 16  # neither a multiple of the chunk, of the segment, nor of the window


def tiny_config(name, **overrides):
    windowed = name in ("mag", "mal", "windowed_transformer", *HYBRIDS)
    settings = {
        "variant": name.removeprefix("windowed_"),
        "vocab_size": VOCABULARY,
        "dim": 8,
        "num_layers": 2,
        "num_heads": 2,
        "window": WINDOW if windowed else None,
        "segment": SEGMENT,
        "persistent_tokens": 2,
        "feed_forward": 12,
        "memory": MemoryConfig(num_heads=2, chunk=CHUNK, conv_width=3),
        "recurrence": RecurrenceConfig(
            num_heads=2, chunk=CHUNK, conv_width=3, state_size=4, mini_batch=CHUNK
        ),
        "dtype": "float64",
    }
    return TitansConfig(**{**settings, **overrides})


def moved(parameters):
    """The parameters moved off their initial values, where norms are one and gates all alike."""
    leaves, structure = jax.tree.flatten(parameters)
    keys = jax.random.split(jax.random.key(1), len(leaves))
    noise = (
        jax.random.normal(k, leaf.shape, leaf.dtype) for k, leaf in zip(keys, leaves, strict=True)
    )
    return jax.tree.unflatten(
        structure, [leaf + 0.1 * n for leaf, n in zip(leaves, noise, strict=True)]
    )


@functools.cache
def tiny_model(name):
    """Graph and parameters."""
    graph, parameters = nnx.split(Titans(tiny_config(name), rngs=nnx.Rngs(0)))
    return graph, moved(parameters)


@functools.cache
def _compiled(name):
    graph, parameters = tiny_model(name)

    @jax.jit
    def call(parameters, tokens, state, mask, reset):
        return nnx.merge(graph, parameters)(tokens, state, mask=mask, reset=reset)

    return functools.partial(call, parameters)


def forward(name, tokens, state=None, mask=None, reset=None):
    return _compiled(name)(tokens, state, mask, reset)


@functools.cache
def initial_state(name):
    graph, parameters = tiny_model(name)
    return jax.jit(lambda p: nnx.merge(graph, p).init_state(BATCH, LENGTH))(parameters)


def random_tokens(seed=0, length=LENGTH):
    return jax.random.randint(jax.random.key(seed), (BATCH, length), 0, VOCABULARY, jnp.int32)
