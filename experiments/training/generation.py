"""Generation, one token at a time: the model's state is all that is kept of the text so far.

The state (memory, attention window, convolution tails) has one size for ever and is updated in place, so a token costs
the same wherever it stands. The prompt goes through the same compiled step: there is one compilation in all.
"""

from collections.abc import Callable, Iterator, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float, Int32, PyTree

DecodeStep = Callable[[PyTree, PyTree, Array, Array], tuple[Array, PyTree, Array]]


def make_decode_step(graphdef: nnx.GraphDef, *, temperature: float, top_k: int) -> DecodeStep:
    """Returns the jitted step (params, state, token [1], key) -> (next token [1], state, key); `state` is donated."""

    def step(
        params: PyTree, state: PyTree, token: Int32[Array, " B"], key: Array
    ) -> tuple[Array, PyTree, Array]:
        logits, state = nnx.merge(graphdef, params)(token[:, None], state)
        key, draw = jax.random.split(key)
        return choose(logits[:, -1], draw, temperature=temperature, top_k=top_k), state, key

    return jax.jit(step, donate_argnums=(1,))


def choose(
    logits: Float[Array, "B V"], key: Array, *, temperature: float, top_k: int
) -> Int32[Array, " B"]:
    """Returns one token per sequence: the likeliest (temperature 0), or drawn from the `top_k` likeliest (0 = all)."""
    if temperature == 0:
        return jnp.argmax(logits, axis=-1).astype(jnp.int32)
    if 0 < top_k < logits.shape[-1]:
        least = jax.lax.top_k(logits, top_k)[0][:, -1:]
        logits = jnp.where(logits < least, -jnp.inf, logits)
    return jax.random.categorical(key, logits / temperature, axis=-1).astype(jnp.int32)


def generate(
    graphdef: nnx.GraphDef,
    params: PyTree,
    step: DecodeStep,
    prompt: Sequence[int],
    length: int,
    seed: int,
) -> Iterator[int]:
    """Yields `length` token ids that continue `prompt`.

    Args:
      graphdef: the model's static part.
      params: its parameters, on one device.
      step: from `make_decode_step`.
      prompt: token ids, at least one (a document's start token, if nothing else).
      length: how many to generate.
      seed: of the draws.
    """
    # All that enters the step is tied to one device, as what it returns is: or its second call would compile again.
    (device,) = jax.tree.leaves(params)[0].devices()
    init_state = jax.jit(
        lambda p: nnx.merge(graphdef, p).init_state(1, max_length=len(prompt) + length)
    )
    params, state, key = jax.device_put((params, init_state(params), jax.random.key(seed)), device)
    for position in range(len(prompt) + length - 1):
        if position < len(prompt):
            token = jax.device_put(np.asarray([prompt[position]], np.int32), device)
        token, state, key = step(params, state, token, key)
        if position >= len(prompt) - 1:
            yield int(token[0])
