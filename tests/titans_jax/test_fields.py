"""Checked fields: what fits is stored in one form, what does not is named, and every configuration declares so."""

import dataclasses
import importlib
import math
import pickle

import jax.numpy as jnp
import numpy as np
import pytest

from titans_jax import MemoryConfig, TitansConfig
from titans_jax.fields import (
    FieldError,
    below_one,
    flag,
    fraction,
    given,
    inside_unit,
    non_negative,
    one_of,
    optional,
    positive,
    positive_int,
    random_seed,
    several,
    string,
    whole,
)

#: Every frozen dataclass that a user fills in.
CONFIGS = {
    "titans_jax.config": ("MemoryConfig", "RecurrenceConfig", "TitansConfig"),
    "titans_jax.data.nucleotides": ("NucleotideTokenizer",),
    "titans_jax.forecasting.training": ("TrainingConfig",),
    "titans_jax.inference.sampling": ("Sampling",),
    "titans_jax.memory.networks": ("MLPNetwork",),
    "titans_jax.models.forecaster": ("ForecasterConfig",),
    "experiments.ablation.run": ("AblationConfig",),
    "experiments.ablation.streams": ("StreamConfig",),
    "experiments.babilong.task": ("BabilongConfig",),
    "experiments.comparison.config": ("StudyConfig",),
    "experiments.efficiency.compare_peer": ("PeerConfig",),
    "experiments.efficiency.run": ("EfficiencyConfig",),
    "experiments.genomics.classifier_training": ("FitConfig",),
    "experiments.genomics.classifiers": ("Size",),
    "experiments.genomics.pretrain": ("PretrainConfig",),
    "experiments.genomics.run": ("GenomicsConfig",),
    "experiments.language_modeling.run": ("LanguageModelingConfig",),
    "experiments.language_modeling.task": ("QuestionsConfig", "TextConfig"),
    "experiments.memory_depth.task": ("MemoryDepthConfig",),
    "experiments.needle_in_a_haystack.task": ("NeedleConfig",),
    "experiments.stability": ("Grid", "Settings"),
    "experiments.state_tracking.task": ("StateTrackingConfig", "StateTrackingExperiment"),
    "experiments.time_series.online": ("OnlineConfig",),
    "experiments.time_series.pictures": ("PicturesConfig",),
    "experiments.time_series.run": ("ForecastingConfig",),
    "experiments.training.config": (
        "DataConfig",
        "MeshConfig",
        "OptimizerConfig",
        "SampleConfig",
        "TrainConfig",
    ),
}
NAMES = [(module, name) for module, names in CONFIGS.items() for name in names]


@pytest.mark.parametrize(("module", "name"), NAMES)
def test_no_field_of_any_config_takes_anything(module, name):
    """Whatever a field is, an object of no kind is refused by its name: no field is without a check."""
    config = getattr(importlib.import_module(module), name)
    nothing = object()
    without_default = {
        declared.name: "something"
        for declared in dataclasses.fields(config)
        if declared.metadata["check"] is given
    }
    for declared in dataclasses.fields(config):
        with pytest.raises(FieldError, match=f"^{declared.name} must be "):
            config(**(without_default | {declared.name: nothing}))


@pytest.mark.parametrize("three", [3, np.int64(3), np.uint8(3), np.array(3), jnp.int32(3)])
def test_every_integer_is_stored_as_an_int(three):
    for config in (MemoryConfig(chunk=three), dataclasses.replace(MemoryConfig(), chunk=three)):
        assert config.chunk == 3
        assert type(config.chunk) is int
        assert hash(config) == hash(MemoryConfig(chunk=3))


def test_every_real_number_is_stored_as_a_float():
    half = MemoryConfig(step_scale=0.5)
    for number in (np.float32(0.5), np.float64(0.5)):
        config = MemoryConfig(step_scale=number)
        assert type(config.step_scale) is float
        assert config == half
    assert type(TitansConfig(rope_base=500).rope_base) is float
    assert MemoryConfig(momentum=np.bool_(False)).momentum is False


@pytest.mark.parametrize("value", [True, np.True_, 1.0, "1", None, np.float32(1), math.nan])
def test_what_is_no_integer_is_refused(value):
    with pytest.raises(FieldError, match=r"^size must be a positive integer, got "):
        positive_int("size", value)


@pytest.mark.parametrize("value", [True, "1", None, math.inf, -math.inf, math.nan, 1j])
@pytest.mark.parametrize("check", [positive, non_negative, fraction])
def test_what_is_no_finite_number_is_refused(check, value):
    with pytest.raises(FieldError, match=r"^rate must be .*, got "):
        check("rate", value)


@pytest.mark.parametrize(
    ("check", "inside", "outside"),
    [
        (positive, (1e-300, 1e300), (0, -1)),
        (non_negative, (0, 5), (-1e-9,)),
        (fraction, (0, 0.5, 1), (-0.1, 1.1)),
        (below_one, (0, 0.999), (-0.1, 1)),
        (inside_unit, (1e-9, 0.999), (0, 1)),
        (whole("2 to 4", 2, 4), (2, 4), (1, 5)),
        (random_seed, (0, 2**32 - 1), (-1, 2**32)),
        (optional(positive_int), (None, 1), (0, False)),
        (one_of(("a", "b")), ("a", np.str_("b")), ("c", None, ["a"])),
        (flag, (True, False), (0, 1, "no", None)),
        (string, ("", "x"), (b"x", None)),
        (several(positive_int), ([1, 2], (3,), np.arange(1, 3)), ((), (0,), "12", 3)),
        (several(positive_int, least=0, distinct=True), ((), (1, 2)), ((1, 1),)),
    ],
)
def test_bounds_are_as_they_are_called(check, inside, outside):
    for value in inside:
        taken = check("x", value)
        assert taken == (tuple(value) if isinstance(value, list | np.ndarray) else value)
    for value in outside:
        with pytest.raises(FieldError, match=r"^x must be "):
            check("x", value)


def test_the_error_survives_the_way_between_processes():
    error = FieldError("depth", 9, "an integer from 1 to 4")
    again = pickle.loads(pickle.dumps(error))
    assert str(again) == str(error) == "depth must be an integer from 1 to 4, got 9"
