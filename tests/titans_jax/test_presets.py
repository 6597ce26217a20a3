"""Presets have the size of their name; only shapes are evaluated."""

import functools
from typing import get_args

import pytest

from experiments.configs.tiny import get_config
from experiments.training.config import train_config
from titans_jax import preset
from titans_jax.config import EXPANSIONS, HYBRIDS, MEMORY_VARIANTS, MemoryConfig, Variant
from titans_jax.matching import count_parameters, match_parameters
from titans_jax.presets import SIZES


@functools.cache
def parameters(config):
    return count_parameters(config)


@pytest.mark.parametrize("variant", get_args(Variant))
@pytest.mark.parametrize("name", SIZES)
def test_parameters_are_within_five_percent_of_the_name(name, variant):
    config = preset(name, variant)
    assert config.vocab_size == 32_000
    named = int(name.removesuffix("m")) * 1e6
    assert abs(parameters(config) / named - 1) <= 0.05


@pytest.mark.parametrize("variant", [*EXPANSIONS, *HYBRIDS])
@pytest.mark.parametrize("name", SIZES)
def test_baselines_are_within_three_percent_of_every_titans(name, variant):
    count = parameters(preset(name, variant))
    for titans in MEMORY_VARIANTS:
        assert abs(count / parameters(preset(name, titans)) - 1) <= 0.03


@pytest.mark.parametrize("variant", ["mamba2", "gated_deltanet_h2"])
def test_a_small_model_is_matched(variant):
    reference = preset("tiny", "mac", num_layers=3)
    matched = match_parameters(preset("tiny", variant, num_layers=3), reference)
    assert matched.variant == variant
    assert abs(parameters(matched) / parameters(reference) - 1) <= 0.03


def test_what_cannot_be_matched_is_refused():
    with pytest.raises(ValueError, match=r"config must be .*within 3 %.*got 'retnet'"):
        match_parameters(preset("tiny", "retnet", num_layers=1), preset("tiny", "lmm", dim=32))


def test_tiny_is_small_and_reads_bytes():
    config = preset("tiny")
    assert config.vocab_size == 256
    assert parameters(config) < 1e6


def test_tiny_is_what_the_first_run_trains():
    assert preset("tiny") == train_config(get_config()).model


@pytest.mark.parametrize("name", ["tiny", "170m"])
def test_the_transformer_is_the_usual_baseline(name):
    config = preset(name, "transformer")
    assert config.window is None
    assert config.persistent_tokens == 0


def test_overrides_replace_fields():
    assert preset("340m", "lmm", num_layers=2).num_layers == 2


def test_the_papers_memory_has_nothing_added():
    config = preset("tiny", "mag", paper=True)
    assert config.combine == "sigmoid"
    assert config.memory.num_heads == 1
    assert config.memory.step_scale == config.memory.chunk == preset("tiny").memory.chunk
    assert (config.memory.anchor, config.memory.bound) == ("chunk", "none")
    assert (config.memory.forget_to, config.memory.weights_start) == ("zero", "plain")
    assert preset("tiny", "mag", paper=True, memory=MemoryConfig()).memory == MemoryConfig()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("170M",), r"name must be one of .*'170m' is the nearest, got '170M'"),
        (("tinny",), r"name must be one of .*'tiny' is the nearest, got 'tinny'"),
        (("340m", "lstm"), r"variant must be one of .*, got 'lstm'"),
    ],
)
def test_unknown_names_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        preset(*arguments)


def test_an_unknown_override_is_refused():
    with pytest.raises(ValueError, match=r"override must be .*'num_layers' is the nearest"):
        preset("tiny", num_layer=2)
