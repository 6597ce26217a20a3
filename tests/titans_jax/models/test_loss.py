"""The loss of sequences that come after others: the state is passed on, and no gradient goes through it."""

import jax
import jax.numpy as jnp
import pytest
from flax import nnx

from tests.titans_jax.models.tiny_models import SEGMENT, VOCABULARY, tiny_config, tiny_model
from tests.tolerances import GRAD_F64, OUTPUT_F64, assert_close
from titans_jax.models import Titans, next_token_loss

BATCH, LENGTH, PAST = 2, 7, 2 * SEGMENT
RECURRENT = ("lmm", "mac", "windowed_transformer", "gated_deltanet", "ttt_linear")


def batch():
    keys = jax.random.split(jax.random.key(3), 3)
    inputs = jax.random.randint(keys[0], (BATCH, LENGTH), 0, VOCABULARY)
    targets = jax.random.randint(keys[1], (BATCH, LENGTH), 0, VOCABULARY)
    before = jax.random.randint(keys[2], (1, PAST), 0, VOCABULARY)
    mask = jnp.arange(LENGTH) > jnp.array([[2], [4]])
    return {"inputs": inputs, "targets": targets, "loss_mask": mask, "before": before}


@pytest.mark.parametrize("name", RECURRENT)
def test_it_is_the_loss_of_the_end_of_the_longer_sequence(name):
    graph, parameters = tiny_model(name)
    after = batch()
    past = jnp.repeat(after["before"], BATCH, axis=0)

    def joined(value, filler):
        return jnp.concatenate([filler, value], axis=1)

    whole = {
        "inputs": joined(after["inputs"], past),
        "targets": joined(after["targets"], past),
        "loss_mask": joined(after["loss_mask"], jnp.zeros(past.shape, bool)),
    }

    @jax.jit
    def losses(parameters):
        model = nnx.merge(graph, parameters)
        return next_token_loss(model, after)[0], next_token_loss(model, whole)[0]

    assert_close(*losses(parameters), OUTPUT_F64)


def test_the_gradient_is_that_of_the_sequences_alone_from_a_state_that_is_given():
    graph, parameters = tiny_model("lmm")
    after = batch()

    def passed(parameters):
        return next_token_loss(nnx.merge(graph, parameters), after)[0]

    def through(parameters, state_parameters):
        _, state = nnx.merge(graph, state_parameters)(jnp.repeat(after["before"], BATCH, axis=0))
        logits, _ = nnx.merge(graph, parameters)(after["inputs"], state)
        nats = jax.nn.logsumexp(logits, -1) - jnp.take_along_axis(
            logits, after["targets"][..., None], axis=-1
        ).squeeze(-1)
        return jnp.sum(nats * after["loss_mask"]) / jnp.sum(after["loss_mask"])

    alone, both = jax.jit(jax.grad(passed)), jax.jit(jax.grad(through, argnums=(0, 1)))
    given, of_the_past = both(parameters, parameters)
    jax.tree.map(lambda a, b: assert_close(a, b, GRAD_F64), alone(parameters), given)
    assert max(float(jnp.max(jnp.abs(leaf))) for leaf in jax.tree.leaves(of_the_past)) > 1e-6


@pytest.mark.parametrize(
    ("name", "shape", "message"),
    [
        ("lmm", (2, PAST), "sequences must be 1, shared"),
        ("mac", (1, SEGMENT + 3), "length must be a multiple of 6"),
        ("transformer", (1, PAST), "absent for full attention"),
    ],
)
def test_a_past_that_does_not_fit_is_refused(name, shape, message):
    model = nnx.eval_shape(lambda: Titans(tiny_config(name), rngs=nnx.Rngs(0)))
    wrong = {**batch(), "before": jnp.zeros(shape, jnp.int32)}
    with pytest.raises(ValueError, match=message):
        next_token_loss(model, wrong)
