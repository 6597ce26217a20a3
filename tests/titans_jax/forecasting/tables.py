"""A small table that every forecasting test reads."""

import numpy as np
import pandas as pd


def small_table(rows: int = 400) -> pd.DataFrame:
    """Hourly rows of two columns: a daily wave with noise, and a slower one."""
    generator = np.random.default_rng(0)
    hours = np.arange(rows)
    return pd.DataFrame(
        {
            "date": pd.date_range("2024-01-01", periods=rows, freq="h"),
            "load": np.sin(2 * np.pi * hours / 24) + 0.1 * generator.normal(size=rows),
            "heat": 20 + 3 * np.cos(2 * np.pi * hours / 48) + 0.1 * generator.normal(size=rows),
        }
    )
