"""The picture of a forecast: what is drawn where."""

import sys

import matplotlib as mpl
import numpy as np
import pandas as pd
import pytest

from titans_jax.forecasting.plotting import MOST_PANELS, draw
from titans_jax.forecasting.table import read_series

mpl.use("Agg")
from matplotlib import dates as calendar
from matplotlib import pyplot as plt

INDEX = pd.date_range("2024-03-30", periods=48, freq="h", tz="Europe/Paris")
TABLE = pd.DataFrame({"load": np.arange(48.0), ("heat", 1): np.arange(48.0) ** 2}, INDEX)
FORECAST = np.arange(8.0).reshape(4, 2)


@pytest.fixture(autouse=True)
def close():
    yield
    plt.close("all")


def test_history_forecast_and_truth_are_drawn_at_their_times():
    history = read_series(TABLE[:40])
    truth = read_series(TABLE[40:43], like=history, follows=True)
    panels = draw(history, FORECAST, truth)
    assert [panel.get_ylabel() for panel in panels] == ["load", "heat, 1"]
    for place, panel in enumerate(panels):
        values = TABLE.iloc[:, place].to_numpy()
        lines = {line.get_label(): line for line in panel.lines}
        for name, first, expected in (
            ("history", 0, values[:40]),
            ("truth", 39, values[39:43]),
            ("forecast", 39, [values[39], *FORECAST[:, place]]),
        ):
            np.testing.assert_array_equal(lines[name].get_ydata(), expected)
            times = INDEX[first : first + len(expected)].tz_convert(None)
            np.testing.assert_allclose(
                calendar.date2num(lines[name].get_xdata()), calendar.date2num(times), rtol=1e-12
            )
    names = [text.get_text() for text in panels[0].figure.legends[0].get_texts()]
    assert names == ["history", "truth", "forecast"]
    assert str(panels[-1].xaxis.get_major_locator().tz) == "Europe/Paris"


def test_arrays_are_drawn_by_their_rows_and_chosen_columns_alone():
    history = read_series(TABLE.to_numpy()[:10])
    panels = draw(history, FORECAST, columns=[1])
    assert [panel.get_ylabel() for panel in panels] == ["1"]
    lines = {line.get_label(): line for line in panels[0].lines}
    np.testing.assert_array_equal(lines["history"].get_xdata(), np.arange(-9, 1))
    np.testing.assert_array_equal(lines["forecast"].get_xdata(), np.arange(5))
    assert "truth" not in lines


def test_what_cannot_be_drawn_is_named(monkeypatch):
    history = read_series(TABLE[:40])
    with pytest.raises(ValueError, match=r"columns must be of the fitted ones.*got 'cold'"):
        draw(history, FORECAST, columns=["cold"])
    many = read_series(np.zeros((9, MOST_PANELS + 1)))
    with pytest.raises(ValueError, match="name 1 to 12 of the 13 columns, got 13"):
        draw(many, np.zeros((2, MOST_PANELS + 1)))
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(ImportError, match=r"titans-jax\[forecasting\]"):
        draw(history, FORECAST)
