"""The gradient of the whole loss, inner learning included, against central differences in float64.

Each group of parameters is moved along one random direction; the slope must be the gradient's.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from tests.titans_jax.models.tiny_models import VOCABULARY, random_tokens, tiny_config, tiny_model
from tests.tolerances import NUMERICAL_GRAD_F64
from titans_jax.models import Titans, next_token_loss

LENGTH = 8  # more than one segment, window and chunk, and not a multiple of any
STEP = 1e-5


def batch():
    tokens = random_tokens(3, LENGTH + 1)
    return {
        "inputs": tokens[:, :-1],
        "targets": tokens[:, 1:],
        "loss_mask": jnp.ones((tokens.shape[0], LENGTH), jnp.bool_).at[0, 0].set(False),
    }


@functools.cache
def loss_and_gradient(name, bound="gradient"):
    graph, _ = tiny_model(name)
    if bound == "none":
        config = tiny_config(name)
        memory = dataclasses.replace(config.memory, bound="none")
        unbounded = dataclasses.replace(config, memory=memory)
        graph, _ = nnx.split(nnx.eval_shape(lambda: Titans(unbounded, rngs=nnx.Rngs(0))))

    def loss(parameters):
        return next_token_loss(nnx.merge(graph, parameters), batch())[0]

    return jax.jit(jax.value_and_grad(loss))


@pytest.mark.parametrize("name", ["mac", "mag", "mal", "transformer"])
def test_every_group_of_parameters(name):
    check_every_group(loss_and_gradient(name), tiny_model(name)[1])


def test_every_group_of_parameters_without_the_bound_on_the_step():
    _, parameters = tiny_model("lmm")
    function = loss_and_gradient("lmm", bound="none")
    # The bound is at work in the tiny models: without it the loss is another.
    assert function(parameters)[0] != loss_and_gradient("lmm")(parameters)[0]
    check_every_group(function, parameters)


def check_every_group(function, parameters):
    value, gradient = function(parameters)
    assert 0 < value < 3 * np.log(VOCABULARY)
    leaves, structure = jax.tree.flatten(parameters)
    slopes, key = jax.tree.leaves(gradient), jax.random.key(5)
    for index, (path, leaf) in enumerate(jax.tree_util.tree_leaves_with_path(parameters)):
        direction = jax.random.normal(jax.random.fold_in(key, index), leaf.shape, leaf.dtype)
        direction /= jnp.linalg.norm(direction)

        def moved(by, index=index, direction=direction):
            shifted = [*leaves[:index], leaves[index] + by * direction, *leaves[index + 1 :]]
            return function(jax.tree.unflatten(structure, shifted))[0]

        numerical = (moved(STEP) - moved(-STEP)) / (2 * STEP)
        analytic = jnp.vdot(slopes[index], direction)
        where = jax.tree_util.keystr(path)
        assert abs(numerical - analytic) <= NUMERICAL_GRAD_F64 * max(1.0, abs(analytic)), where
        assert (slopes[index] != 0).any(), f"{where} has no gradient at all"
