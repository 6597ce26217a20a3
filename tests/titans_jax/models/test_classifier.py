"""The classifier: padding changes nothing, every token counts alike, and its language model is unchanged."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from tests.titans_jax.models.tiny_models import moved, random_tokens, tiny_config
from tests.tolerances import OUTPUT_F64, assert_close
from titans_jax.models import Titans
from titans_jax.models.classifier import SequenceClassifier, masked_mean

CLASSES = 3


@functools.cache
def classifier(name):
    model = SequenceClassifier(tiny_config(name), CLASSES, rngs=nnx.Rngs(0))
    graph, parameters = nnx.split(model)
    return graph, moved(parameters)


@functools.cache
def compiled(name):
    graph, parameters = classifier(name)
    call = jax.jit(lambda p, tokens, mask: nnx.merge(graph, p).classify(tokens, mask=mask))
    return functools.partial(call, parameters)


@pytest.mark.parametrize("name", ["mac", "lmm", "transformer"])
def test_padding_changes_nothing(name):
    tokens = random_tokens(length=10)
    alone = compiled(name)(tokens, None)
    assert alone.shape == (2, CLASSES)
    assert (alone[0] != alone[1]).all()
    padded = jnp.concatenate([tokens, random_tokens(5, 4)], axis=1)
    mask = jnp.arange(14)[None] < jnp.full((2, 1), 10)
    assert_close(compiled(name)(padded, mask), alone, OUTPUT_F64)
    all_count = compiled(name)(padded, jnp.ones_like(mask))
    assert abs(all_count - alone).max() > 1e-3


def test_pooling_is_the_mean_over_what_is_no_padding():
    x = jax.random.normal(jax.random.key(0), (3, 4, 5), jnp.float64).at[0, 3].set(jnp.nan)
    mask = jnp.array([[True, True, True, False], [True, False, False, False], [False] * 4])
    pooled = np.asarray(masked_mean(x, mask))
    rows = np.asarray(x)
    assert_close(pooled, np.stack([rows[0, :3].mean(0), rows[1, 0], np.zeros(5)]), OUTPUT_F64)
    assert_close(masked_mean(x[1:], None), rows[1:].mean(1), OUTPUT_F64)


def test_parameters_have_the_language_models_names():
    """What was pretrained as a language model starts a classifier, and the classifier is still one."""
    config = tiny_config("lmm")
    plain = Titans(config, rngs=nnx.Rngs(0))
    names = {path for path, _ in nnx.to_flat_state(nnx.state(plain))}
    model = nnx.merge(*classifier("lmm"))
    own = {path for path, _ in nnx.to_flat_state(nnx.state(model))}
    assert own - names == {("classifier", "kernel"), ("classifier_bias",)}
    assert names <= own
    shared = nnx.filter_state(nnx.state(model), lambda path, _: tuple(path) in names)
    nnx.update(plain, shared)
    tokens = random_tokens(length=4)
    np.testing.assert_array_equal(model(tokens)[0], plain(tokens)[0])


def test_one_class_is_refused():
    with pytest.raises(ValueError, match="num_classes must be an integer of at least 2, got 1"):
        SequenceClassifier(tiny_config("lmm"), 1, rngs=nnx.Rngs(0))
