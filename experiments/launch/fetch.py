"""Copies a folder from a URL to this machine's disk; what is there already, and as large, is not copied again.

    python -m experiments.launch.fetch gs://BUCKET/data /tmp/titans-data

Every worker of a pod reads its training text from its own disk; this brings it there.
"""

import sys
from pathlib import Path

import fsspec

from titans_jax.data.shards import inside


def fetch(source: str, target: Path) -> int:
    """Copies a folder; an interrupted copy is continued by the next.

    Args:
      source: URL of a folder.
      target: created if missing.

    Returns:
      The number of files that were copied.

    Raises:
      FileNotFoundError: the source holds no file.
      ValueError: a file's name would put it outside of the target.
    """
    files, root = fsspec.url_to_fs(source)
    found = {
        name: entry["size"]
        for name, entry in files.find(root, detail=True).items()
        if entry["type"] == "file"
        and not name.endswith("/")  # storages keep folders as empty objects
    }
    if not found:
        raise FileNotFoundError(f"{source}: no file there")
    missing = {}
    for name, size in found.items():
        local = target / inside(name.removeprefix(root).lstrip("/"))
        if not (local.is_file() and local.stat().st_size == size):
            local.parent.mkdir(parents=True, exist_ok=True)
            missing[name] = local
    parts = [local.with_name(local.name + ".part") for local in missing.values()]
    if missing:
        files.get(list(missing), [str(part) for part in parts])
    for part, local in zip(parts, missing.values(), strict=True):
        part.replace(local)
    return len(missing)


def main(argv: list[str]) -> None:
    """Reads the arguments and copies."""
    if len(argv) != 3:
        raise SystemExit("usage: python -m experiments.launch.fetch URL FOLDER")
    try:
        count = fetch(argv[1], Path(argv[2]).expanduser())
    except (OSError, ImportError, ValueError) as error:
        raise SystemExit(f"error: {error}") from error
    print(f"{argv[1]}: {count} files copied to {argv[2]}")


if __name__ == "__main__":
    main(sys.argv)
