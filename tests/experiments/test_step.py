"""The training step: accumulation changes nothing but memory, buffers are donated."""

import jax
import numpy as np
import optax
import pytest

from experiments.training.parameters import count, transformer_like
from experiments.training.step import (
    evaluate,
    init_params,
    make_eval_step,
    make_train_step,
    split_model,
)
from tests.experiments.tiny_run import tiny_config
from tests.tolerances import GRAD_F32, OUTPUT_F32, assert_close


def random_batch(rows=4, length=16):
    random = np.random.default_rng(0)
    tokens = random.integers(0, 256, (rows, length + 1), dtype=np.int32)
    mask = np.ones((rows, length), bool)
    mask[0, 3:] = False  # parts of a batch must be weighted by what counts in them
    return {"inputs": tokens[:, :-1], "targets": tokens[:, 1:], "loss_mask": mask}


def test_accumulation_equals_the_whole_batch_and_donates(tmp_path):
    model = tiny_config(tmp_path, model__variant="transformer").model
    graphdef, _ = split_model(model)
    optimizer = optax.sgd(1.0)  # the update is the gradient
    results = []
    for parts in (1, 4):
        params = init_params(model, seed=0)
        before = jax.tree.map(np.array, params)
        step = make_train_step(graphdef, optimizer, parts)
        after, _, metrics = step(params, optimizer.init(params), random_batch())
        assert all(x.is_deleted() for x in jax.tree.leaves(params))
        results.append((jax.tree.map(np.subtract, after, before), metrics))
    (whole, whole_metrics), (summed, summed_metrics) = results
    assert_close(summed, whole, GRAD_F32)
    assert_close(summed_metrics, whole_metrics, OUTPUT_F32)
    assert float(whole_metrics.grad_norm) > 0


def test_evaluation_counts_every_token_once(tmp_path):
    model = tiny_config(tmp_path, model__variant="transformer").model
    graphdef, _ = split_model(model)
    params, batch = init_params(model, seed=0), random_batch()
    step = make_eval_step(graphdef)
    one = {k: v[:1] for k, v in batch.items()}
    nats_first, tokens_first = evaluate(step, params, [one])
    nats, tokens = evaluate(
        step, params, [{k: v[i : i + 1] for k, v in batch.items()} for i in range(4)]
    )
    assert (tokens_first, tokens) == (3, 3 + 3 * 16)
    assert nats_first / 3 == pytest.approx(np.log(256), rel=0.1)
    assert nats / tokens == pytest.approx(np.log(256), rel=0.1)


@pytest.mark.parametrize("variant", ["mac", "mag", "mal", "lmm"])
def test_baseline_has_as_many_parameters(variant, tmp_path):
    model = tiny_config(
        tmp_path, model__variant=variant, model__dim=64, model__feed_forward=128
    ).model
    baseline = transformer_like(model)
    wanted, found = (count(split_model(m)[1]) for m in (model, baseline))
    assert baseline.variant == "transformer"
    assert baseline.window == 8
    assert abs(found - wanted) <= 0.02 * wanted
