"""The field's splits, by hand, and files that cannot be taken."""

import numpy as np
import pandas as pd
import pytest

from experiments.time_series.datasets import ett_parts, load_dataset, ratio_parts, read_csv
from tests.titans_jax.forecasting.tables import small_table
from titans_jax.forecasting.windows import Parts, window_starts


def test_the_parts_and_windows_of_the_standard_loader(tmp_path):
    hourly = ett_parts("ETTh1", 17_420, tmp_path)
    assert hourly == Parts(8_640, 11_520, 14_400)
    assert ett_parts("ETTm2", 69_680, tmp_path) == Parts(34_560, 46_080, 57_600)
    weather = ratio_parts(52_696)
    assert weather == Parts(36_887, 42_157, 52_696)
    # As many windows as the standard loader has.
    counts = [
        len(getattr(window_starts(hourly, 96, 96), part)) for part in ("train", "valid", "test")
    ]
    assert counts == [8_449, 2_785, 2_785]
    counts = [
        len(getattr(window_starts(weather, 96, 720), part)) for part in ("train", "valid", "test")
    ]
    assert counts == [36_072, 4_551, 9_820]


def test_any_csv_is_standardised_by_its_training_rows(tmp_path):
    table = small_table(100).assign(still=3.0)
    table.to_csv(tmp_path / "own.csv", index=False)
    data = load_dataset("own.csv", tmp_path)
    assert data.parts == Parts(70, 80, 100)
    assert (data.columns, data.day) == (("load", "heat", "still"), 24)
    values = table[["load", "heat"]].to_numpy()
    expected = (values - values[:70].mean(axis=0)) / values[:70].std(axis=0)
    np.testing.assert_allclose(data.series[:, :2], expected, rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(data.series[:, 2], 0)
    np.testing.assert_array_equal(data.phase(24)[:26], [*range(24), 0, 1])


def test_dates_with_offsets_and_of_old_times_are_kept(tmp_path):
    table = pd.DataFrame(
        {"date": ["2024-03-30T12:00+01:00", "2024-03-31T12:00+02:00"], "a": [1, 2]}
    )
    table.to_csv(tmp_path / "zoned.csv", index=False)
    found = load_dataset("zoned.csv", tmp_path).dates
    np.testing.assert_array_equal(found, np.asarray(["2024-03-30T11", "2024-03-31T10"], "M8[s]"))
    pd.DataFrame({"date": ["1600-01-01", "1600-01-02"], "a": [1, 2]}).to_csv(
        tmp_path / "old.csv", index=False
    )
    found = load_dataset("old.csv", tmp_path).dates
    np.testing.assert_array_equal(found, np.asarray(["1600-01-01", "1600-01-02"], "M8[s]"))


def test_latin_letters_in_a_header(tmp_path):
    table = pd.DataFrame({"date": ["2020-01-01"], "T (°C)": [1.0]})
    table.to_csv(tmp_path / "weather.csv", index=False, encoding="latin-1")
    assert list(read_csv(tmp_path / "weather.csv").columns) == ["date", "T (°C)"]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("time,a\n2020-01-01,1\n", "must have a column 'date'"),
        ("date,a\n2020-01-01,1\nsoon,2\n", "own.csv, column 'date', row 1: 'soon' is not a date"),
        ("date,a\n20200101,1\n20200102,2\n", "column 'date' holds numbers, which are no dates"),
        ("date,a,b\n2020-01-01,1,2\n2020-01-02,1,\n", "column 'b', row 1: must be a finite number"),
        ("date,a\n2020-01-01,x\n", "column 'a', row 0: must be a finite number, got 'x'"),
    ],
)
def test_files_that_cannot_be_taken(tmp_path, text, said):
    (tmp_path / "own.csv").write_text(text)
    with pytest.raises(ValueError, match=said):
        load_dataset("own.csv", tmp_path)


def test_unknown_names_absent_files_and_short_ones(tmp_path):
    with pytest.raises(ValueError, match=r"--dataset=ETTh3: must be one of ETTm1, .*\.csv"):
        load_dataset("ETTh3", tmp_path)
    with pytest.raises(FileNotFoundError, match=r"electricity\.csv, the file of --dataset=ECL"):
        load_dataset("ECL", tmp_path)
    small_table(50).to_csv(tmp_path / "ETTh1.csv", index=False)
    with pytest.raises(ValueError, match="at least 14400 rows for ETTh1, got 50"):
        load_dataset("ETTh1", tmp_path)
