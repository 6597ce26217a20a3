"""Small preparations for tests."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from experiments.prepare.plan import Settings, make_plan
from experiments.prepare.run import Outcome, prepare
from titans_jax.data.tokenizers import ByteTokenizer

NOTHING_HELD_OUT = {"valid_fraction": 0.0}


def write(folder: Path, files: dict[str, bytes]) -> Path:
    """Writes files by name, and returns the folder."""
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return folder


def lines(texts: Iterable[str], field: str = "text") -> bytes:
    """Texts as JSON Lines."""
    return b"".join(json.dumps({"id": 1, field: text}).encode() + b"\n" for text in texts)


def run(source: Path, output: Path, workers: int = 1, **changes: Any) -> Outcome:
    """Prepares `source` with the byte tokenizer; `changes` are of Settings."""
    plan = make_plan(str(source), Settings(**changes), ByteTokenizer().fingerprint())
    return prepare(plan, output, "bytes", workers, lambda weight: None)
