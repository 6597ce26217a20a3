"""Training speed of every model against sequence length, and what the compiler expects of a TPU: the paper's Fig. 9.

    python -m experiments.efficiency.run

times the training step of models of equal size at equal tokens per step (length x batch), with the memory it needs, on
this machine; then compiles the step of a preset of the paper's size for TPUs that are absent, and reports the static
estimate. It needs no data. Every finished row is kept in the workdir, and the same command continues.
"""

import dataclasses
import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
from absl import app

from experiments.comparison import write_results
from experiments.comparison.command import command_line, define_flags, messages, output_path, parser
from experiments.comparison.provenance import provenance
from experiments.comparison.trial import write_json
from experiments.efficiency.config import EfficiencyConfig
from experiments.efficiency.speed_report import markdown, plot
from experiments.efficiency.static_estimate import estimate
from experiments.efficiency.training_speed import measure
from experiments.language_modeling.models import make_models
from experiments.training.config import from_config_dict

CONFIG = "experiments/configs/efficiency.py"
FLAGS = define_flags("efficiency")


class Rows:
    """The finished rows of a run, each written to the workdir as soon as it is there."""

    def __init__(self, workdir: Path, config: EfficiencyConfig):
        """Reads those of an earlier start.

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

    def get(self, name: str, make: Any) -> dict[str, Any]:
        """The row of a name; made if it is missing."""
        rows = self._content["rows"]
        if name not in rows:
            began = time.perf_counter()
            row = make()
            rows[name] = {**row, "wall_seconds": time.perf_counter() - began, **provenance()}
            write_json(self._path, self._content)
        return rows[name]


def run(config: EfficiencyConfig, workdir: Path) -> dict[str, Any]:
    """Measures what is missing.

    Returns:
      "config", "speed" (rows with "model", "length", "batch_size" and what `measure` returns) and "tpu" (rows with
      "model" and the compile report).
    """
    models = make_models(config.models, config.model)
    rows = Rows(workdir, config)
    speed, tpu = [], []
    for length in config.lengths:
        batch = config.tokens_per_step // length
        for name, model in models.items():

            def make(
                model: Any = model, length: int = length, batch: int = batch
            ) -> dict[str, Any]:
                jax.clear_caches()
                return measure(model, batch, length, config.repeats)

            row = rows.get(f"{name} {length}", make)
            speed.append({"model": name, "length": length, "batch_size": batch, **row})
            print(
                f"{name}, {batch} x {length}: {row['tokens_per_second']:,.0f} ± {row['std']:,.0f} tokens/s, "
                f"{row['bytes'] / 2**20:,.0f} MiB",
                flush=True,
            )
    variants = dict.fromkeys(model.variant for model in models.values())
    for variant in variants if config.tpu_topology else ():

        def compiled(variant: str = variant) -> dict[str, Any]:
            return estimate(variant, config.tpu_preset, config.tpu_topology)

        row = rows.get(f"tpu {variant}", compiled)
        tpu.append({"model": variant, **row})
        print(f"{variant} on {config.tpu_topology}: {_said(row)}", flush=True)
    return {"config": dataclasses.asdict(config), "speed": speed, "tpu": tpu}


def _said(row: dict[str, Any]) -> str:
    if "failed" in row:
        return row["failed"]
    if not row["fits"]:
        return "too large"
    return f"{row['tokens_per_second']:,.0f} tokens/s by static estimate"


def main(argv: Sequence[str]) -> None:
    """Measures and writes the results."""
    with messages(argv):
        config = from_config_dict(EfficiencyConfig, FLAGS.config.value)
        results = run(config, Path(FLAGS.workdir.value))
        results["command"] = command_line("experiments.efficiency.run")
        write_results(results, output_path(FLAGS), markdown, plot)


if __name__ == "__main__":
    app.run(main, flags_parser=parser(CONFIG))
