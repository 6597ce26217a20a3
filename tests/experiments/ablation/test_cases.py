"""The ablation's cases."""

import pytest

from experiments.ablation.cases import COMPONENTS, make_cases
from titans_jax import preset
from titans_jax.matching import count_parameters


def test_each_case_changes_one_thing_and_no_size():
    base = preset("tiny", "lmm")
    cases = make_cases(("base", *COMPONENTS, "mac"), (16, 64), base)
    assert set(COMPONENTS) <= set(cases)
    assert "chunk 64" not in cases  # the base's own
    assert cases["chunk 16"].memory.chunk == 16
    wanted = count_parameters(base)
    for name, model in cases.items():
        assert abs(count_parameters(model) - wanted) < 0.03 * wanted, name
        assert (model == base) == (name == "base")
    with pytest.raises(ValueError, match=r"config\.cases"):
        make_cases(("no memory",), (), base)
    with pytest.raises(ValueError, match=r"config\.needle_cases"):
        make_cases(("no memory",), (), base, "config.needle_cases")
