"""Generation: the same numbers as the whole sequence, one compilation, a state of one size."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from experiments.training.generation import choose, generate, make_decode_step
from experiments.training.step import init_params, split_model
from tests.experiments.tiny_run import tiny_config


@pytest.mark.parametrize("variant", ["mac", "transformer"])
def test_greedy_generation_follows_the_whole_sequence(variant, tmp_path):
    model = tiny_config(tmp_path, model__variant=variant).model
    graphdef, _ = split_model(model)
    params = init_params(model, seed=3)
    if variant == "mac":  # as restored from a checkpoint: tied to a device
        params = jax.device_put(params, jax.devices()[0])
    step = make_decode_step(graphdef, temperature=0.0, top_k=0)
    prompt = [10, 100, 101, 102]
    ids = list(generate(graphdef, params, step, prompt, length=9, seed=0))
    assert len(ids) == 9
    assert step._cache_size() == 1  # the prompt, the first and all later tokens share one program

    tokens = jnp.asarray([prompt + ids[:-1]], jnp.int32)
    logits, _ = nnx.merge(graphdef, params)(tokens)
    expected = jnp.argmax(logits[0, len(prompt) - 1 :], axis=-1)
    assert ids == expected.tolist()


def test_state_does_not_grow(tmp_path):
    model = tiny_config(tmp_path).model
    graphdef, _ = split_model(model)
    params = init_params(model, seed=0)
    state = jax.eval_shape(lambda: nnx.merge(graphdef, params).init_state(1))
    token = jax.ShapeDtypeStruct((1, 1), jnp.int32)
    _, after = jax.eval_shape(lambda t, s: nnx.merge(graphdef, params)(t, s), token, state)
    assert jax.tree.map(lambda x: (x.shape, x.dtype), state) == jax.tree.map(
        lambda x: (x.shape, x.dtype), after
    )


def test_seed_decides_the_text(tmp_path):
    model = tiny_config(tmp_path, model__variant="transformer").model
    graphdef, _ = split_model(model)
    params = init_params(model, seed=0)
    step = make_decode_step(graphdef, temperature=1.0, top_k=0)
    texts = [list(generate(graphdef, params, step, [10], length=8, seed=s)) for s in (0, 0, 1)]
    assert texts[0] == texts[1] != texts[2]


def test_choose_keeps_to_the_likeliest():
    logits = jnp.log(jnp.asarray([[0.1, 0.4, 0.3, 0.2]], jnp.float32))
    keys = jax.random.split(jax.random.key(0), 200)
    draw = jax.vmap(lambda key: choose(logits, key, temperature=1.0, top_k=2)[0])
    assert set(np.asarray(draw(keys)).tolist()) == {1, 2}
    assert choose(logits, keys[0], temperature=0.0, top_k=0).tolist() == [1]
