"""The one store of what takes long to compute: a folder per result.

    FOLDER/config.json      the key: all that decides the result; another result's folder is refused
    FOLDER/record.json      what came out; its presence says that it is done
    FOLDER/lock             held by the process that works on it, until it ends in whatever way

So a command that was interrupted goes on, several processes may share a folder of results, and what was computed with
other settings never stands on a page that does not say so.
"""

import contextlib
import fcntl
import hashlib
import json
import os
import platform
import subprocess
import textwrap
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from experiments.training.config import flatten
from experiments.training.workdir import versions

CONFIG = "config.json"
RECORD = "record.json"
DIRTY = "dirty: tracked files differ from the commit"
#: Characters of a line of JSON.
_WIDTH = 200


def keep(
    folder: Path, key: Mapping[str, Any], make: Callable[[], dict[str, Any]]
) -> dict[str, Any] | None:
    """The record of a result; made if it is not there yet.

    Args:
      folder: of the result.
      key: all that decides it, as JSON values.
      make: computes it. An entry "seconds" of what it returns stands instead of the time that it took, for work that
        was done in several starts.

    Returns:
      What `make` returned, with "config" (the key), "commit" (and "error", if that is not the code), "versions",
      "machine", "seconds" and "cpu_seconds". None: another process is at it.

    Raises:
      ValueError: the folder holds another result; names what differs.
    """
    check_same(folder, key)
    folder.mkdir(parents=True, exist_ok=True)
    with _claimed(folder) as ours:
        if not ours:
            return None
        finished = read_record(folder)
        if finished is not None:
            return finished
        write_json(folder / CONFIG, key)
        began, cpu = time.perf_counter(), time.process_time()
        made = make()
        times = {
            "seconds": time.perf_counter() - began,
            "cpu_seconds": time.process_time() - cpu,
        }
        record = plain({"config": key, **provenance(), **times, **made})
        write_json(folder / RECORD, record)
        return record


def read_record(folder: Path) -> dict[str, Any] | None:
    """Returns what is kept in a folder; None if it is not finished."""
    path = folder / RECORD
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else None


def check_same(folder: Path, key: Mapping[str, Any]) -> None:
    """Refuses a folder with another key.

    Args:
      folder: of a result.
      key: all that decides it, as JSON values.

    Raises:
      ValueError: names what differs, with both values.
    """
    path = folder / CONFIG
    if not path.exists():
        return
    saved = flatten(json.loads(path.read_text(encoding="utf-8")))
    wanted = flatten(plain(key))
    differing = [
        f"  {field}: {saved.get(field, 'absent')!r} there, {wanted.get(field, 'absent')!r} given"
        for field in sorted(saved.keys() | wanted.keys())
        if saved.get(field, "absent") != wanted.get(field, "absent")
    ]
    if differing:
        raise ValueError(
            f"{folder} holds another result:\n"
            + "\n".join(differing)
            + "\ngive the same values, or another --workdir"
        )


@contextlib.contextmanager
def _claimed(folder: Path) -> Iterator[bool]:
    """Whether this process alone works in the folder, for as long as the context lasts."""
    with (folder / "lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
        else:
            yield True


def plain(tree: Any) -> Any:
    """A tree as JSON gives it back: lists for tuples, numbers of Python for numpy's."""
    return json.loads(json.dumps(tree, default=_number))


def _number(value: Any) -> Any:
    return value.__qualname__ if callable(value) else float(value)


def fingerprint(parts: Iterable[bytes]) -> str:
    """One number for the contents of some data, for a key."""
    digest = hashlib.sha256()
    for part in parts:
        digest.update(hashlib.sha256(part).digest())
    return digest.hexdigest()


def write_json(path: Path, content: Any) -> None:
    """Replaces a file at once, so that an interruption never leaves half of it."""
    new = path.with_name(path.name + ".new")
    new.write_text(_lines(content) + "\n", encoding="utf-8")
    new.replace(path)


def _lines(content: Any, indent: str = "") -> str:
    """JSON in which whatever fits into a line is one."""
    whole = json.dumps(content)
    if not content or not isinstance(content, dict | list) or len(indent + whole) <= _WIDTH:
        return whole
    inner = indent + " "
    if isinstance(content, list) and not any(isinstance(x, dict | list | str) for x in content):
        numbers = textwrap.wrap(whole[1:-1], _WIDTH - len(inner))
        return "[\n" + "\n".join(inner + line for line in numbers) + "\n" + indent + "]"
    if isinstance(content, dict):
        items = [f"{json.dumps(name)}: {_lines(value, inner)}" for name, value in content.items()]
        first, last = "{}"
    else:
        items, (first, last) = [_lines(value, inner) for value in content], "[]"
    return first + "\n" + ",\n".join(inner + item for item in items) + "\n" + indent + last


def provenance() -> dict[str, Any]:
    """Returns what stands beside a result: "commit" (and "error" if that is not the code), "versions", "machine"."""
    return {**_code(), "versions": versions(), "machine": machine()}


def origin(records: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """What a page says of where its numbers come from.

    Args:
      records: of `keep`.
    """
    return {
        "trials": len(records),
        "seconds": sum(record["seconds"] for record in records),
        "cpu_seconds": sum(record["cpu_seconds"] for record in records),
        "machines": sorted({record["machine"] for record in records}),
        "jax": sorted({record["versions"]["jax"] for record in records}),
        "flax": sorted({record["versions"]["flax"] for record in records}),
        "commits": sorted({record["commit"] for record in records}),
        "errors": sorted({record["error"] for record in records if "error" in record}),
    }


def machine() -> str:
    """Returns the processor's name and number of cores."""
    return f"{processor()}, {os.cpu_count()} cores"


def processor() -> str:
    """Returns the processor's name."""
    name = platform.processor() or platform.machine()
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    for line in lines:
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return name


def _code() -> dict[str, str]:
    try:
        commit = _git("rev-parse", "HEAD")
        changed = _git("status", "--porcelain", "--untracked-files=no")
    except (OSError, subprocess.CalledProcessError):
        return {"commit": "unknown", "error": "not run from a git checkout"}
    return {"commit": commit, "error": DIRTY} if changed else {"commit": commit}


def _git(*arguments: str) -> str:
    here = Path(__file__).parent
    found = subprocess.run(
        ["git", *arguments], cwd=here, check=True, capture_output=True, text=True
    )
    return found.stdout.strip()
