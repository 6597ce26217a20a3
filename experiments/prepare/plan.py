"""What a preparation will do, fixed before it begins: settings, files, and which parts of them make which shard.

The plan depends on the files and the settings only, never on how many processes work or where one was stopped. That is
why any number of workers writes the same bytes, and why finished shards can be kept. `plan.json` in the output folder
lets nothing else go on in it.
"""

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from experiments.prepare.inputs import InputFile, Part, input_file, split_file
from titans_jax.data.prepared import PLAN
from titans_jax.data.sources import find_files


@dataclasses.dataclass(frozen=True)
class Settings:
    """What decides the prepared text, beside the files and the tokenizer.

    Attributes:
      field: of JSON Lines, which holds the text.
      column: of Parquet, which holds the text.
      invalid_utf8: "replace" bytes that are no UTF-8 by U+FFFD, or "fail".
      valid_fraction: share of the documents held out.
      shard_bytes: about so many bytes of text make a shard.
    """

    field: str = "text"
    column: str = "text"
    invalid_utf8: str = "replace"
    valid_fraction: float = 0.01
    shard_bytes: int = 1 << 28

    def __post_init__(self) -> None:
        if self.invalid_utf8 not in ("replace", "fail"):
            raise ValueError(f"--invalid_utf8={self.invalid_utf8}: must be 'replace' or 'fail'")
        if not 0 <= self.valid_fraction < 1:
            raise ValueError(
                f"--valid_fraction={self.valid_fraction}: must be at least 0 and below 1"
            )
        if self.shard_bytes < 1:
            raise ValueError(f"--shard_bytes={self.shard_bytes}: must be at least 1")


class Plan(NamedTuple):
    """All that a worker needs to know. Shard n is made of units[n]."""

    settings: Settings
    tokenizer: str  # its fingerprint
    files: tuple[InputFile, ...]
    units: tuple[tuple[Part, ...], ...]


def make_plan(path: str, settings: Settings, tokenizer: str) -> Plan:
    """Finds the files and divides them.

    Args:
      path: a file, a folder or a glob.
      settings: see Settings.
      tokenizer: fingerprint of what will encode the text.

    Raises:
      FileNotFoundError: there is no file.
      ValueError: a file cannot be read.
      ImportError: a library is missing.
    """
    try:
        found = find_files(path)
    except FileNotFoundError as error:
        raise FileNotFoundError(f"--input: {error}") from error
    files = tuple(input_file(file) for file in found)
    if not files:
        raise FileNotFoundError(f"--input={path}: no file matches")
    parts = [
        part
        for number, file in enumerate(files)
        for part in split_file(number, file, settings.column, settings.shard_bytes)
    ]
    return Plan(settings, tokenizer, files, _grouped(parts, settings.shard_bytes))


def claim(folder: Path, plan: Plan) -> None:
    """Writes the plan into the output folder, or checks that the one there is the same.

    Raises:
      ValueError: the folder is used for something else; says what differs.
    """
    now = _as_json(plan)
    path = folder / PLAN
    if path.is_file():
        try:
            before = json.loads(path.read_text(encoding="utf-8"))
            differing = _differences(before, now)
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(f"{path} cannot be read ({error!r}); give another --output") from error
        if differing:
            raise ValueError(
                f"--output={folder} holds a preparation of something else:\n  "
                + "\n  ".join(differing)
                + "\ngive the same again, or another --output"
            )
        return
    if folder.is_dir() and any(other != _partial(path) for other in folder.iterdir()):
        raise ValueError(
            f"--output={folder} holds other files; give a folder that is empty or does not exist"
        )
    folder.mkdir(parents=True, exist_ok=True)
    write_whole(path, json.dumps(now, indent=1) + "\n")


def write_whole(path: Path, text: str) -> None:
    """Writes a file that is either there as a whole or not at all."""
    _partial(path).write_text(text, encoding="utf-8")
    _partial(path).replace(path)


def _partial(path: Path) -> Path:
    return path.with_name(f".{path.name}.partial")


def _grouped(parts: Sequence[Part], most: int) -> tuple[tuple[Part, ...], ...]:
    """Parts in order, in groups of a weight of at most `most` or of a single part."""
    units: list[list[Part]] = []
    weight = 0
    for part in parts:
        if not units or weight + part.weight > most:
            units.append([])
            weight = 0
        units[-1].append(part)
        weight += part.weight
    return tuple(tuple(unit) for unit in units)


def _as_json(plan: Plan) -> dict[str, Any]:
    return {
        "settings": dataclasses.asdict(plan.settings),
        "tokenizer": plan.tokenizer,
        "files": {file.name: {"size": file.size, "mtime_ns": file.mtime_ns} for file in plan.files},
    }


def _differences(before: dict[str, Any], now: dict[str, Any], most: int = 5) -> list[str]:
    lines = [
        f"--{name}: {before['settings'].get(name)!r} then, {value!r} now"
        for name, value in now["settings"].items()
        if before["settings"].get(name) != value
    ]
    if before["tokenizer"] != now["tokenizer"]:
        lines.append(
            f"--tokenizer: its SHA-256 was {before['tokenizer'][:12]}..., it is {now['tokenizer'][:12]}..."
        )
    old, new = before["files"], now["files"]
    for name in sorted(old.keys() | new.keys()):
        if old.get(name) != new.get(name):
            what = "new" if name not in old else "gone" if name not in new else "changed"
            lines.append(f"{name}: {what}")
    if len(lines) > most:
        lines[most:] = [f"and {len(lines) - most} more"]
    return lines
