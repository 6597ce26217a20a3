"""The flag that says where the data are."""

import os
from pathlib import Path

from absl import flags

VARIABLE = "TITANS_DATA"


def define_data_dir() -> None:
    """Defines --data_dir: when the command runs, for a process may import several."""
    flags.DEFINE_string("data_dir", None, f"folder of the data; by default ${VARIABLE}")


def data_dir() -> Path:
    """The folder that --data_dir or the environment says.

    Raises:
      ValueError: neither does.
      FileNotFoundError: there is no such folder.
    """
    given = flags.FLAGS.data_dir or os.environ.get(VARIABLE)
    if not given:
        raise ValueError(f"give --data_dir=DIR, the folder of the data, or set {VARIABLE}")
    folder = Path(given)
    if not folder.is_dir():
        raise FileNotFoundError(f"--data_dir={given}: there is no such folder")
    return folder
