"""What all variants share: input checks, remat, dtypes, initialisation, the loss."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from tests.titans_jax.models.tiny_models import (
    BATCH,
    CHUNK,
    LENGTH,
    VOCABULARY,
    forward,
    initial_state,
    moved,
    random_tokens,
    tiny_config,
    tiny_model,
)
from tests.tolerances import GRAD_F64, OUTPUT_BF16, OUTPUT_F64, assert_close
from titans_jax.config import MemoryConfig
from titans_jax.models import Titans, next_token_loss


@functools.cache
def built(name="lmm", **overrides):
    return Titans(tiny_config(name, **overrides), rngs=nnx.Rngs(0))


@pytest.mark.parametrize("name", ["mac", "mag", "transformer"])
def test_bfloat16_is_finite_and_near_float32(name):
    """Parameters, fast weights and logits stay in float32. One layer: each adds roundings of its own."""

    def run(dtype):
        memory = MemoryConfig(num_heads=2, chunk=CHUNK, conv_width=3)
        config = tiny_config(name, dtype=dtype, dim=32, num_layers=1, memory=memory)
        graph, parameters = nnx.split(Titans(config, rngs=nnx.Rngs(0)))
        assert {leaf.dtype for leaf in jax.tree.leaves(parameters)} == {jnp.dtype("float32")}
        forward = jax.jit(lambda p, tokens: nnx.merge(graph, p)(tokens))
        return forward(moved(parameters), random_tokens())

    (wide, _), (narrow, state) = run("float32"), run("bfloat16")
    assert narrow.dtype == jnp.float32
    if name != "transformer":
        memory = state if name == "lmm" else state.memory
        assert {leaf.dtype for leaf in memory.memory.weights} == {jnp.dtype("float32")}
    assert np.isfinite(narrow).all()
    error = np.sqrt(np.mean(np.square(narrow - wide)) / np.mean(np.square(wide)))
    assert 0 < error <= OUTPUT_BF16


def test_rematerialisation_changes_nothing():
    tokens = random_tokens(length=9)
    batch = {
        "inputs": tokens[:, :-1],
        "targets": tokens[:, 1:],
        "loss_mask": jnp.ones((BATCH, 8), jnp.bool_),
    }
    _, parameters = tiny_model("lmm")

    def gradient(remat):
        graph, _ = nnx.split(built("lmm", remat=remat))
        return jax.jit(jax.value_and_grad(lambda p: next_token_loss(nnx.merge(graph, p), batch)[0]))

    # The memory rematerialises its own steps either way.
    with_it, without = (
        str(jax.make_jaxpr(gradient(remat))(parameters)).count("remat") for remat in (True, False)
    )
    assert with_it > without
    assert_close(gradient(True)(parameters), gradient(False)(parameters), GRAD_F64)


def test_layers_start_out_different_and_named_by_layer_first():
    state = nnx.state(built().layers)
    for path, leaf in jax.tree_util.tree_leaves_with_path(state):
        assert leaf.shape[0] == 2
        constant = any(part in jax.tree_util.keystr(path) for part in ("norm", "bias", "gain"))
        # A memory begins empty: its last layer is zero.
        empty = jax.tree_util.keystr(path).endswith("['initial_weights'][1].value")
        assert constant or empty or (leaf[0] != leaf[1]).any(), jax.tree_util.keystr(path)


def test_untied_logits_have_a_matrix_of_their_own():
    tied, untied = (built("lmm", tie_embeddings=tie) for tie in (True, False))
    assert not hasattr(tied, "head")
    assert untied.head.kernel[...].shape == (8, VOCABULARY)
    tokens = random_tokens(length=2)
    assert untied(tokens)[0].shape == (BATCH, 2, VOCABULARY)


def test_without_feed_forward_the_block_is_its_mixer():
    block = built("lmm", feed_forward=0).layers
    assert not hasattr(block, "feed_forward")
    assert built("lmm", feed_forward=0)(random_tokens(length=2))[0].shape[-1] == VOCABULARY


def test_a_token_outside_the_vocabulary_is_not_taken_for_another():
    """Compiled, where nothing can be refused."""
    for wrong in (VOCABULARY, -1):
        tokens = random_tokens().at[0, 3].set(wrong)
        logits, _ = forward("lmm", tokens)
        assert np.isfinite(logits[0, :3]).all()
        assert np.isnan(logits[0, 3]).all()
        assert np.isfinite(logits[1]).all()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((jnp.zeros((3,), jnp.int32),), r"tokens must have shape \[batch, length\], got \(3,\)"),
        ((jnp.zeros((2, 0), jnp.int32),), r"tokens must have shape .*, got \(2, 0\)"),
        ((jnp.zeros((0, 2), jnp.int32),), r"tokens must have shape .*, got \(0, 2\)"),
        ((jnp.zeros((2, 3)),), "tokens must be integers, got dtype float64"),
        (([[1, 2]],), "tokens must be an array of token ids, got list"),
        ((jnp.asarray([[1, -1]]),), r"tokens must lie in \[0, 11\), the model's .*, got -1"),
        ((np.asarray([[11, 1]]),), r"tokens must lie in \[0, 11\), the model's .*, got 11"),
    ],
)
def test_bad_tokens_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        built()(*arguments)


def test_flags_and_states_that_do_not_fit_are_refused():
    tokens = random_tokens()
    with pytest.raises(ValueError, match=r"mask must be bool of tokens' shape \(2, 16\), got bool"):
        built()(tokens, mask=jnp.ones((2, 15), jnp.bool_))
    with pytest.raises(ValueError, match=r"reset must be bool of tokens' shape .*, got int32"):
        built()(tokens, reset=jnp.zeros((2, 16), jnp.int32))
    with pytest.raises(ValueError, match=r"state.* must start with \(layers, batch\) = \(2, 1\)"):
        built()(tokens[:1], initial_state("lmm"))
    with pytest.raises(ValueError, match="batch_size must be a positive integer, got 0"):
        built().init_state(0)
    with pytest.raises(ValueError, match=r"batch_size must be a positive integer, got 1\.0"):
        built().init_state(1.0)
    with pytest.raises(ValueError, match="max_length must be a positive integer or None, got -1"):
        built().init_state(1, -1)
    with pytest.raises(ValueError, match="max_length is None, but full attention"):
        built("transformer").init_state(1)


def test_loss_is_the_mean_over_the_targets_that_count():
    tokens = random_tokens(length=LENGTH)
    targets = random_tokens(7, LENGTH)
    mask = jax.random.bernoulli(jax.random.key(2), 0.5, targets.shape)
    graph, parameters = tiny_model("lmm")
    model = nnx.merge(graph, parameters)
    batch = {"inputs": tokens, "targets": targets, "loss_mask": mask}
    loss, aux = next_token_loss(model, batch)
    logits = np.asarray(forward("lmm", tokens)[0])
    probabilities = np.exp(logits) / np.exp(logits).sum(axis=-1, keepdims=True)
    chosen = np.take_along_axis(probabilities, np.asarray(targets)[..., None], axis=-1)[..., 0]
    assert_close(loss, -np.log(chosen)[np.asarray(mask)].mean(), OUTPUT_F64)
    assert (aux["loss"], aux["tokens"]) == (loss, mask.sum())
    weights = jnp.where(mask, 0.5, 0.0)  # a mask may weigh: the mean does not change with a factor
    weighed, _ = next_token_loss(model, batch | {"loss_mask": weights})
    assert_close(weighed, loss, OUTPUT_F64)
    nothing = batch | {"loss_mask": jnp.zeros_like(mask)}
    assert next_token_loss(model, nothing)[0] == 0


def test_a_target_outside_the_vocabulary_is_refused_or_makes_the_loss_nan():
    graph, parameters = tiny_model("lmm")
    tokens = random_tokens(length=4)
    everything = {"inputs": tokens, "targets": tokens, "loss_mask": jnp.ones_like(tokens, bool)}
    compiled = jax.jit(lambda batch: next_token_loss(nnx.merge(graph, parameters), batch)[0])
    for wrong in (VOCABULARY, -1):
        batch = everything | {"targets": tokens.at[1, 2].set(wrong)}
        with pytest.raises(ValueError, match=rf"targets must lie in \[0, 11\).*, got {wrong}"):
            next_token_loss(nnx.merge(graph, parameters), batch)
        assert np.isnan(compiled(batch))
        # What does not count may be anything.
        masked = batch | {"loss_mask": everything["loss_mask"].at[1, 2].set(False)}
        same = masked | {"targets": tokens}
        assert compiled(masked) == compiled(same)
    with pytest.raises(ValueError, match="targets must be integers, got dtype float64"):
        compiled(everything | {"targets": tokens * 1.0})


def test_loss_passes_document_starts_on():
    tokens = random_tokens()
    reset = jnp.zeros(tokens.shape, jnp.bool_).at[:, 6].set(True)
    graph, parameters = tiny_model("transformer")
    model = nnx.merge(graph, parameters)
    last = jnp.zeros(tokens.shape, jnp.bool_).at[:, -1].set(True)
    batch = {"inputs": tokens, "targets": tokens, "loss_mask": last, "reset": reset}
    alone = {key: value[:, 6:] for key, value in batch.items() if key != "reset"}
    assert_close(next_token_loss(model, batch)[0], next_token_loss(model, alone)[0], OUTPUT_F64)


def test_every_titans_does_without_persistent_tokens():
    for name in ("lmm", "mac", "mag", "mal"):
        logits, _ = built(name, persistent_tokens=0)(jnp.zeros((1, 4), jnp.int32))
        assert jnp.isfinite(logits).all()
