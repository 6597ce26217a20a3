"""Models of a comparison by name."""

import dataclasses

import pytest

from experiments.configs.language_modeling import small
from experiments.language_modeling.models import CLOSED_BIAS, NAMES, make_models


@pytest.mark.parametrize("variant", ["lmm", "mac", "mag", "mal"])
def test_a_closed_model_is_the_model_but_for_where_theta_begins(variant):
    name = f"{variant}_closed"
    models = make_models((variant, name), small())
    memory = dataclasses.replace(models[variant].memory, step_bias=CLOSED_BIAS)
    assert models[name] == dataclasses.replace(models[variant], memory=memory)
    assert models[name] != models[variant]


@pytest.mark.parametrize("variant", ["deltanet", "gated_deltanet", "ttt_linear", "ttt_mlp"])
def test_a_closed_baseline_is_the_baseline_but_for_where_its_writes_begin(variant):
    name = f"{variant}_closed"
    models = make_models((variant, name), small())
    closed = dataclasses.replace(models[variant].recurrence, step_bias=CLOSED_BIAS)
    assert models[name] == dataclasses.replace(models[variant], recurrence=closed)
    assert models[name] != models[variant]


def test_a_model_whose_writes_have_no_gate_is_not_closed():
    with pytest.raises(ValueError, match="mamba2_closed"):
        make_models(("mamba2_closed",), small())


def test_a_comparison_of_all_models_has_each_once():
    """A closed model is asked for by name: as fast as the open one, it would only double a comparison."""
    assert not [name for name in NAMES if name.endswith("_closed")]
    assert len(set(NAMES)) == len(NAMES)
