"""MFU's two halves: what a step multiplies, and what a device could."""

import pytest

from experiments.training.step import split_model
from experiments.training.utilisation import flops_per_token, peak_flops
from tests.experiments.tiny_run import tiny_config


def test_a_transformers_flops_are_three_times_its_matmuls(tmp_path):
    model = tiny_config(tmp_path, model__variant="transformer", model__num_layers=3).model
    graphdef, shapes = split_model(model)
    counted = flops_per_token(graphdef, shapes, 2, 16, reset=False)
    dim, hidden, vocabulary = model.dim, model.feed_forward, model.vocab_size
    projections = 3 * (4 * dim**2 + 3 * dim * hidden) + dim * vocabulary
    # Attention multiplies each query with some keys and values: no more than the sequence and the prefix.
    keys = (16 + model.persistent_tokens) * 2
    assert 3 * 2 * projections < counted < 3 * 2 * (projections + 3 * 2 * dim * keys)


@pytest.mark.parametrize(
    ("kind", "peak"),
    [("TPU v4", 137.5e12), ("TPU v5 lite", 197e12), ("TPU v5", 459e12), ("cpu", 0)],
)
def test_peak_is_that_of_a_device(kind, peak):
    assert peak_flops(kind) == peak
