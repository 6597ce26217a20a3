"""The field's data sets, by name, from a folder of CSVs in their common release; or any CSV with a date column.

The protocol of the standard loader, which every published number of this field follows:

* ETT is split by rows, 12 / 4 / 4 months of 30 days; all others 70 / 10 / 20 %, training and test rounded down and
  validation given what is left.
* Columns are standardised by the training rows. Errors are measured on standardised values.
* A part's first window looks back into the part before it.
* Rows are taken as they lie in the file. weather.csv, for one, has a date twice, a hole of 100 minutes, and 81 values
  of -9999 that mean "missing": the published numbers have them in, so the ones here do too. A table given to
  `titans_jax.forecasting.TitansForecaster` gets no such pass.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pandas as pd

from titans_jax.forecasting.calendar import step_of
from titans_jax.forecasting.frame import DATE, instants_of, read_dates
from titans_jax.forecasting.scaling import Standardiser, standardiser
from titans_jax.forecasting.table import Dates, phases, rows_per_day
from titans_jax.forecasting.windows import Parts
from titans_jax.typing import Array, Float, Int

#: File of each data set, in the order of the paper's table.
FILES = {
    "ETTm1": "ETTm1.csv",
    "ETTm2": "ETTm2.csv",
    "ETTh1": "ETTh1.csv",
    "ETTh2": "ETTh2.csv",
    "ECL": "electricity.csv",
    "Traffic": "traffic.csv",
    "Weather": "weather.csv",
    "Exchange": "exchange_rate.csv",
}
MONTH_HOURS = 30 * 24


@dataclasses.dataclass(frozen=True)
class Dataset:
    """A data set, standardised and on the device.

    Attributes:
        name: of the set.
        columns: of the table.
        dates: of the rows, in UTC where they have a zone.
        series: standardised values.
        parts: where train, validation and test end.
        scaler: of the training part.
        day: rows of a day; 0 where a day has no whole number of at least two.
    """

    name: str
    columns: tuple[str, ...]
    dates: np.ndarray
    series: Float[Array, "T C"]
    parts: Parts
    scaler: Standardiser
    day: int

    def phase(self, season: int) -> Int[Array, "T"]:
        """Row of a cycle of `season` rows at every row."""
        step = step_of(self.dates, None) if len(self.dates) > 1 else None
        return jnp.asarray(phases(Dates(self.dates, None, step, DATE), len(self.dates), season))


def load_dataset(name: str, folder: str | Path) -> Dataset:
    """Reads a data set.

    Args:
        name: one of `FILES`, or the file name of a CSV in the folder, ending in .csv.
        folder: where the CSVs are.

    Raises:
        FileNotFoundError: if the file is not there.
        ValueError: for an unknown name, or a value that is no number, by column and row.
    """
    if name not in FILES and not name.endswith(".csv"):
        raise ValueError(
            f"--dataset={name}: must be one of {', '.join(FILES)}, or a file name that ends in .csv"
        )
    path = Path(folder) / FILES.get(name, name)
    if not path.is_file():
        raise FileNotFoundError(f"{path}, the file of --dataset={name}, does not exist")
    table = read_csv(path)
    values = table.drop(columns=DATE).to_numpy(np.float64)
    dates = instants_of(pd.DatetimeIndex(table[DATE]))
    columns = tuple(str(column) for column in table.columns if column != DATE)
    parts = (
        ett_parts(name, len(values), path) if name.startswith("ETT") else ratio_parts(len(values))
    )
    scaler = standardiser(values[: parts.train])
    series = jnp.asarray(scaler.apply(values))
    return Dataset(name, columns, dates, series, parts, scaler, rows_per_day(dates))


def read_csv(path: Path) -> pd.DataFrame:
    """A CSV with a date column, in UTF-8 or else Latin-1, whose other columns are finite numbers.

    Args:
        path: the file.

    Raises:
        ValueError: by column and row, of the first row after the header as 0.
    """
    try:
        table = pd.read_csv(path, encoding="utf-8")
    except UnicodeDecodeError:  # weather.csv: degrees and micro signs
        table = pd.read_csv(path, encoding="latin-1")
    if DATE not in table.columns:
        raise ValueError(f"{path} must have a column {DATE!r}, got {list(table.columns)}")
    stamps = read_dates(table[DATE], f"{path}, column {DATE!r}")
    for column in table.columns.drop(DATE):
        numbers = pd.to_numeric(table[column], errors="coerce")
        good = np.isfinite(numbers.to_numpy(np.float64, na_value=np.nan))
        if not good.all():
            row = int((~good).argmax())
            raise ValueError(
                f"{path}, column {column!r}, row {row}: must be a finite number, got {table[column].iloc[row]!r}"
            )
    return table.assign(**{DATE: stamps})


def ett_parts(name: str, rows: int, path: Path) -> Parts:
    """12, 4 and 4 months of 30 days; rows after them are left out, as everywhere.

    Args:
        name: ETTh.. for hourly rows, ETTm.. for quarters of an hour.
        rows: of the file.
        path: for the error.

    Raises:
        ValueError: if there are fewer rows.
    """
    month = MONTH_HOURS * (4 if name.startswith("ETTm") else 1)
    if rows < 20 * month:
        raise ValueError(f"{path} must have at least {20 * month} rows for {name}, got {rows}")
    return Parts(12 * month, 16 * month, 20 * month)


def ratio_parts(rows: int) -> Parts:
    """70, 10 and 20 %, as the standard loader rounds them.

    Args:
        rows: of the file.
    """
    train, test = int(rows * 0.7), int(rows * 0.2)
    return Parts(train, rows - test, rows)
