"""Every window of every part, by hand."""

import numpy as np
import pytest

from titans_jax.forecasting.windows import Parts, window_starts


def test_parts_overlap_by_the_look_back_and_no_window_is_left_out():
    starts = window_starts(Parts(10, 16, 22), lookback=4, horizon=3)
    np.testing.assert_array_equal(starts.train, np.arange(0, 4))  # rows 0..9
    np.testing.assert_array_equal(starts.valid, np.arange(6, 10))  # predicted rows 10..15
    np.testing.assert_array_equal(starts.test, np.arange(12, 16))  # predicted rows 16..21


def test_a_part_without_rows_has_no_windows():
    assert not len(window_starts(Parts(10, 10, 10), 4, 3).valid)


@pytest.mark.parametrize(
    ("parts", "said"),
    [
        (Parts(6, 16, 22), "train part has 6 rows.*at least 7"),
        (Parts(10, 12, 22), "valid part has 2 rows.*at least 3"),
    ],
)
def test_too_short_a_part_is_refused(parts, said):
    with pytest.raises(ValueError, match=said):
        window_starts(parts, 4, 3)
