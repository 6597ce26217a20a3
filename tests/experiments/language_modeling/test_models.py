"""Models of a comparison by name."""

import dataclasses

import pytest

from experiments.configs.language_modeling import small
from experiments.language_modeling.named_models import CLOSED_BIAS, NAMES, make_models, named

MEMORIES = dict.fromkeys(("lmm", "mac", "mag", "mal"), "memory")
BASELINES = dict.fromkeys(("deltanet", "gated_deltanet", "ttt_linear", "ttt_mlp"), "recurrence")


@pytest.mark.parametrize(("variant", "field"), [*MEMORIES.items(), *BASELINES.items()])
def test_a_closed_model_is_the_model_but_for_where_its_writes_begin(variant, field):
    name = f"{variant}_closed"
    models = make_models((variant, name), small())
    closed = dataclasses.replace(getattr(models[variant], field), step_bias=CLOSED_BIAS)
    assert models[name] == dataclasses.replace(models[variant], **{field: closed})
    assert models[name] != models[variant]


def test_a_model_whose_writes_have_no_gate_is_not_closed():
    with pytest.raises(ValueError, match="mamba2_closed"):
        make_models(("mamba2_closed",), small())


def test_a_comparison_of_all_models_has_each_once():
    """A closed model is asked for by name: as fast as the open one, it would only double a comparison."""
    assert not [name for name in NAMES if name.endswith("_closed")]
    assert len(set(NAMES)) == len(NAMES)


def test_a_memory_does_not_change_models_without_one():
    """Else whoever sets the memory of a comparison trains its baselines again."""
    base = small()
    other = dataclasses.replace(base, memory=dataclasses.replace(base.memory, step_scale=1.0))
    names = ("transformer_window", "gated_deltanet", "samba")
    assert [named(name, base) for name in names] == [named(name, other) for name in names]
    assert named("lmm", base) != named("lmm", other)
