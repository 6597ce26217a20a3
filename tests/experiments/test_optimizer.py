"""Weight decay on matrices only; the schedule."""

import jax
import jax.numpy as jnp
import optax
import pytest

from experiments.training.config import OptimizerConfig
from experiments.training.optimizer import (
    decay_mask,
    decays,
    learning_rate_schedule,
    make_optimizer,
    path_name,
)
from experiments.training.step import split_model
from tests.experiments.tiny_run import tiny_config


@pytest.mark.parametrize(
    ("path", "ndim", "expected"),
    [
        ("embedding", 2, True),
        ("layers/feed_forward/up/kernel", 3, True),
        ("norm/scale", 1, False),
        ("layers/norm/scale", 2, False),
        ("layers/mixer/kernel", 2, False),  # the layer axis makes a vector look like a matrix
        ("layers/mixer/memory/gate_kernel", 4, True),  # [D, 3, H]: three matrices side by side
        ("layers/mixer/memory/gate_bias", 3, False),
        ("layers/mixer/memory/gain", 3, False),
        ("layers/mixer/memory/initial_weights/0", 4, False),
        ("layers/mixer/memory/query/conv/kernel", 3, False),
        ("layers/mixer/persistent/tokens", 3, False),
    ],
)
def test_decays(path, ndim, expected):
    assert decays(path, ndim) is expected


@pytest.mark.parametrize("variant", ["mac", "mag", "mal", "lmm", "transformer"])
def test_every_matrix_of_a_model_decays_and_nothing_else(variant, tmp_path):
    _, shapes = split_model(tiny_config(tmp_path, model__variant=variant).model)
    mask = jax.tree_util.tree_flatten_with_path(decay_mask(shapes))[0]
    by_name = {path_name(path): decayed for path, decayed in mask}
    matrices = {
        name
        for name in by_name
        if name == "embedding" or (name.endswith("kernel") and "/conv/" not in name)
    }
    assert {name for name, decayed in by_name.items() if decayed} == matrices
    kinds = (
        {"persistent", "scale"}
        if variant == "transformer"
        else {"persistent", "scale", "bias", "initial", "conv"}
    )
    assert all(any(kind in name for name in by_name.keys() - matrices) for kind in kinds)


def test_without_gradients_only_matrices_shrink():
    params = {
        "layers": {
            "kernel": jnp.ones((2, 3, 3), jnp.float32),
            "bias": jnp.ones((2, 3), jnp.float32),
        }
    }
    optimizer = make_optimizer(
        OptimizerConfig(learning_rate=0.5, weight_decay=0.1, warmup_fraction=0.0), steps=10
    )
    grads = jax.tree.map(jnp.zeros_like, params)
    updates, _ = optimizer.update(grads, optimizer.init(params), params)
    new = optax.apply_updates(params, updates)
    assert new["layers"]["kernel"][0, 0, 0] == pytest.approx(1 - 0.5 * 0.1)
    assert (new["layers"]["bias"] == 1).all()


def test_schedule_rises_linearly_and_falls_as_a_cosine():
    config = OptimizerConfig(learning_rate=1.0, warmup_fraction=0.1, final_fraction=0.2)
    rate = learning_rate_schedule(config, 100)
    assert rate(0) == pytest.approx(0.1)
    assert rate(5) == pytest.approx(0.55)
    assert rate(10) == pytest.approx(1.0)
    assert rate(55) == pytest.approx(0.6)
    assert rate(100) == pytest.approx(0.2)
    one_step = learning_rate_schedule(config, 1)
    assert 0 < one_step(0) <= 1
