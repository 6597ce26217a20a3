"""The comparison that every other test relies on can fail, and says where."""

import numpy as np
import pytest

from tests.tolerances import assert_close


def test_equal_trees_pass_and_the_tolerance_is_a_bound():
    tree = {"a": np.ones((2, 3)), "b": (np.zeros(0), 2.0)}
    assert_close(tree, tree, 0.0)
    assert_close(1.0 + 1e-6, 1.0, 2e-6)
    with pytest.raises(AssertionError, match="error"):
        assert_close(1.0 + 3e-6, 1.0, 2e-6)


def test_large_leaves_are_compared_relative_to_their_scale_and_small_ones_absolutely():
    assert_close(np.array([1000.0, 0.0005]), np.array([1000.0, 0.0]), 1e-6)
    assert_close(np.array([0.0005]), np.array([0.0]), 1e-3)
    with pytest.raises(AssertionError):
        assert_close(np.array([0.0005]), np.array([0.0]), 1e-4)


def test_the_worst_leaf_is_named():
    expected = {"good": np.zeros(3), "bad": np.zeros((2, 2))}
    actual = {"good": np.full(3, 0.1), "bad": np.array([[0, 0], [0.5, 0]])}
    with pytest.raises(AssertionError, match=r"'bad'\] at \(1, 0\).*0\.5"):
        assert_close(actual, expected, 1e-3)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_what_is_not_finite_never_passes(value):
    with pytest.raises(AssertionError, match="error inf"):
        assert_close(np.array([0.0, value]), np.zeros(2), 1e9)
    with pytest.raises(AssertionError, match="not finite"):
        assert_close(np.array([value]), np.array([value]), 1e9)


def test_shapes_and_structures_must_agree():
    with pytest.raises(AssertionError, match=r"shape \(1, 2\), expected \(2,\)"):
        assert_close(np.zeros((1, 2)), np.zeros(2), 1.0)
    with pytest.raises(AssertionError, match="structures differ"):
        assert_close({"a": 1.0}, {"b": 1.0}, 1.0)
