"""Measurements that are made one by one, each kept as soon as it is there."""

import dataclasses
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from experiments.comparison.provenance import provenance
from experiments.comparison.trial import write_json


class Rows:
    """The finished rows of a run, each written to the workdir as soon as it is there."""

    def __init__(self, workdir: Path, config: Any):
        """Reads those of an earlier start of the same config, a dataclass.

        Raises:
          ValueError: the folder holds another run's.
        """
        self._path = workdir / "rows.json"
        described = json.loads(json.dumps(dataclasses.asdict(config)))
        self._content: dict[str, Any] = {"config": described, "rows": {}}
        if self._path.exists():
            saved = json.loads(self._path.read_text(encoding="utf-8"))
            differing = [n for n, value in described.items() if saved["config"].get(n) != value]
            if differing:
                raise ValueError(
                    f"--workdir={workdir} holds a run with another {', '.join(differing)}: give the same, or "
                    "another --workdir"
                )
            self._content = saved
        workdir.mkdir(parents=True, exist_ok=True)

    def get(self, name: str, make: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        """The row of a name; made if it is missing."""
        rows = self._content["rows"]
        if name not in rows:
            began = time.perf_counter()
            row = make()
            rows[name] = {**row, "wall_seconds": time.perf_counter() - began, **provenance()}
            write_json(self._path, self._content)
        return rows[name]
