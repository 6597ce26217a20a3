"""Presets have the size of their name; only shapes are evaluated."""

import math
from typing import get_args

import jax
import pytest
from flax import nnx

from titans_jax import Titans, preset
from titans_jax.config import Variant
from titans_jax.presets import SIZES


def parameters(config):
    state = nnx.state(nnx.eval_shape(lambda: Titans(config, rngs=nnx.Rngs(0))), nnx.Param)
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(state))


@pytest.mark.parametrize("variant", get_args(Variant))
@pytest.mark.parametrize("name", SIZES)
def test_parameters_are_within_five_percent_of_the_name(name, variant):
    config = preset(name, variant)
    assert config.vocab_size == 32_000
    named = int(name.removesuffix("m")) * 1e6
    assert abs(parameters(config) / named - 1) <= 0.05


def test_tiny_is_small_and_reads_bytes():
    config = preset("tiny")
    assert config.vocab_size == 256
    assert parameters(config) < 1e6


def test_overrides_replace_fields():
    assert preset("340m", "lmm", num_layers=2).num_layers == 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("170M",), r"name must be one of .*'170M'; the nearest is '170m'"),
        (("340m", "lstm"), r"variant must be one of .*'lstm'"),
    ],
)
def test_unknown_names_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        preset(*arguments)
