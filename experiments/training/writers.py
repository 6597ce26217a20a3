"""Where metrics go: metrics.jsonl, TensorBoard's files, and Weights & Biases where it is wanted.

In a folder of this machine the files grow line by line. Storage behind a URL such as gs:// cannot append: there the
files are written whole, at every `flush`.
"""

import hashlib
import importlib
import json
import tempfile
from pathlib import Path
from typing import Any, Protocol

from etils import epath
from tensorboardX import SummaryWriter

from experiments.training.config import TrainConfig, flatten
from experiments.training.workdir import absolute, is_url

Record = dict[str, Any]


class Writer(Protocol):
    """Takes records one by one."""

    def write(self, record: Record) -> None:
        """Takes one record; its "step" says where it belongs."""

    def flush(self) -> None:
        """Makes sure that what was written can be read by others."""

    def close(self) -> None:
        """Flushes; nothing can be written afterwards."""


def open_writers(
    folder: epath.Path, config: TrainConfig, start_step: int, records: list[Record]
) -> list[Writer]:
    """Opens all that the config wants.

    Args:
      folder: of the model; gets metrics.jsonl and a folder "tensorboard".
      config: of the run.
      start_step: the step that is continued from.
      records: of earlier starts, up to it.
    """
    writers: list[Writer] = [
        JsonLines(folder / "metrics.jsonl", records),
        TensorBoard(folder / "tensorboard", start_step),
    ]
    if config.wandb_project:
        writers.append(WeightsAndBiases(config.wandb_project, folder, flatten(config)))
    return writers


class JsonLines:
    """A file of one JSON object per line."""

    def __init__(self, path: epath.Path, records: list[Record]):
        """Replaces the file, in one move: a run killed here keeps its old records.

        Args:
          path: of the file.
          records: to begin with.
        """
        self._path, self._lines = path, [json.dumps(record) + "\n" for record in records]
        new = path.with_name(path.name + ".rewritten")
        new.write_text("".join(self._lines), encoding="utf-8")
        new.replace(path)
        self._file = None if is_url(path) else Path(path).open("a", encoding="utf-8")  # noqa: SIM115
        if self._file is not None:
            self._lines = []  # the file has them

    def write(self, record: Record) -> None:
        """Takes one record."""
        line = json.dumps(record) + "\n"
        if self._file is None:
            self._lines.append(line)
        else:
            self._file.write(line)

    def flush(self) -> None:
        """Makes the lines readable by others."""
        if self._file is None:
            self._path.write_text("".join(self._lines), encoding="utf-8")
        else:
            self._file.flush()

    def close(self) -> None:
        """Flushes and closes."""
        self.flush()
        if self._file is not None:
            self._file.close()


class TensorBoard:
    """Scalars for TensorBoard."""

    def __init__(self, folder: epath.Path, start_step: int):
        """Begins a new file beside those of earlier starts.

        Args:
          folder: for the files.
          start_step: what earlier starts wrote of later steps is not shown.
        """
        self._folder = folder
        self._here = tempfile.mkdtemp(prefix="tensorboard-") if is_url(folder) else None
        self._board = SummaryWriter(self._here or str(folder), purge_step=start_step + 1)

    def write(self, record: Record) -> None:
        """Takes one record."""
        for key, value in record.items():
            if key != "step":
                self._board.add_scalar(key, value, record["step"])

    def flush(self) -> None:
        """Copies the files to where they belong; on a disk TensorBoard's writer does so by itself."""
        if self._here is not None:
            self._board.flush()
            copy_folder(Path(self._here), self._folder)

    def close(self) -> None:
        """Flushes and closes."""
        self._board.close()
        if self._here is not None:
            copy_folder(Path(self._here), self._folder)


class WeightsAndBiases:
    """A run of a Weights & Biases project; the same one after a restart."""

    def __init__(self, project: str, folder: epath.Path, config: Record):
        """Starts or continues the run.

        Args:
          project: its project.
          folder: of the model; its end is the run's name, the whole tells runs apart.
          config: what it was started with.
        """
        wandb = importlib.import_module("wandb")
        name = f"{folder.parent.name}/{folder.name}"
        identity = hashlib.sha256(str(absolute(folder)).encode()).hexdigest()[:16]
        self._run = wandb.init(
            project=project, name=name, id=identity, resume="allow", config=config
        )

    def write(self, record: Record) -> None:
        """Takes one record."""
        values = {key: value for key, value in record.items() if key != "step"}
        self._run.log(values, step=record["step"])

    def flush(self) -> None:
        """Does nothing: it sends by itself."""

    def close(self) -> None:
        """Ends the run."""
        self._run.finish()


def read_records(path: epath.Path, last_step: int) -> list[Record]:
    """Returns the records of a metrics.jsonl up to a step; the line that a killed run was writing is left."""
    if not path.exists():
        return []
    records = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            record = json.loads(line)
        except json.JSONDecodeError:
            continue
        if record["step"] <= last_step:
            records.append(record)
    return records


def copy_folder(source: Path, target: epath.Path) -> None:
    """Copies all files of a folder of this machine."""
    for path in sorted(source.rglob("*")):
        if path.is_file():
            copy = target / path.relative_to(source).as_posix()
            copy.parent.mkdir(parents=True, exist_ok=True)
            copy.write_bytes(path.read_bytes())
