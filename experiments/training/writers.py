"""Where metrics go: metrics.jsonl, TensorBoard's files, and Weights & Biases where it is wanted.

In a folder of this machine the files grow line by line. Storage behind a URL such as gs:// cannot append: there the
files are written whole, at every `flush`.
"""

import contextlib
import hashlib
import importlib
import json
import os
import socket
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol

from etils import epath
from tensorboardX.proto.event_pb2 import Event, SessionLog
from tensorboardX.record_writer import RecordWriter
from tensorboardX.summary import scalar

from experiments.training.config import TrainConfig, flatten
from experiments.training.workdir import absolute, is_url

Record = dict[str, Any]


class RecordsError(ValueError):
    """A file of metrics does not hold what was written."""


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
            return
        with _named(self._path):
            self._file.write(line)

    def flush(self) -> None:
        """Makes the lines readable by others."""
        with _named(self._path):
            if self._file is None:
                self._path.write_text("".join(self._lines), encoding="utf-8")
            else:
                self._file.flush()

    def close(self) -> None:
        """Flushes and closes."""
        if self._file is None:
            self.flush()
            return
        with _named(self._path):
            self._file.close()


class TensorBoard:
    """Scalars for TensorBoard, written by this thread: a disk that is full stops the run, not a thread beside it."""

    def __init__(self, folder: epath.Path, start_step: int):
        """Begins a new file beside those of earlier starts.

        Args:
          folder: for the files.
          start_step: what earlier starts wrote of later steps is not shown.
        """
        self._folder = folder
        self._here = tempfile.mkdtemp(prefix="tensorboard-") if is_url(folder) else None
        here = Path(self._here or folder)
        here.mkdir(parents=True, exist_ok=True)
        name = f"events.out.tfevents.{time.time():.0f}.{socket.gethostname()}.{os.getpid()}"
        self._path = here / name
        self._records = RecordWriter(str(self._path))
        self._write(Event(file_version="brain.Event:2"))
        restarted = SessionLog(status=SessionLog.START)
        self._write(Event(step=start_step + 1, session_log=restarted))

    def write(self, record: Record) -> None:
        """Takes one record."""
        for key, value in record.items():
            if key != "step":
                self._write(Event(step=record["step"], summary=scalar(key, value)))

    def flush(self) -> None:
        """Makes the scalars readable by others."""
        with _named(self._path):
            self._records.flush()
        self._copy()

    def close(self) -> None:
        """Flushes and closes."""
        with _named(self._path):
            self._records.close()
        self._copy()

    def _write(self, event: Event) -> None:
        event.wall_time = time.time()
        with _named(self._path):
            self._records.write(event.SerializeToString())

    def _copy(self) -> None:
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
    """Returns the records of a metrics.jsonl up to a step; the last line, if a killed run did not end it, is left.

    Raises:
      RecordsError: another line is no record; names file and line.
    """
    if not path.exists():
        return []
    records = []
    *lines, _unfinished = path.read_bytes().split(b"\n")
    for number, line in enumerate(lines, 1):
        try:
            record = json.loads(line.decode())
            step = record["step"]
        except (ValueError, TypeError, KeyError) as error:
            raise RecordsError(
                f"{path}, line {number}: no record of a step ({type(error).__name__}: {error}); take the line out, or "
                "put the file away to begin a new one"
            ) from error
        if step <= last_step:
            records.append(record)
    return records


@contextlib.contextmanager
def _named(path: epath.PathLike) -> Iterator[None]:
    """An error of a file that is open does not say which one it is."""
    try:
        yield
    except OSError as error:
        raise OSError(error.errno, error.strerror, os.fspath(path)) from error


def copy_folder(source: Path, target: epath.Path) -> None:
    """Copies all files of a folder of this machine."""
    for path in sorted(source.rglob("*")):
        if path.is_file():
            copy = target / path.relative_to(source).as_posix()
            copy.parent.mkdir(parents=True, exist_ok=True)
            copy.write_bytes(path.read_bytes())
