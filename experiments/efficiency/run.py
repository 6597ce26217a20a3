"""Training speed of every model against sequence length, and what the compiler expects of a TPU: the paper's Fig. 9.

    python -m experiments.efficiency.run

times the training step of models of equal size at equal tokens per step (length x batch), with the memory it needs, on
this machine; then compiles the step of a preset of the paper's size for TPUs that are absent, and reports the static
estimate. It needs no data. Every finished row is kept in the workdir, and the same command continues.
"""

import dataclasses
from pathlib import Path
from typing import Any

from experiments import command
from experiments.comparison.store import keep, origin
from experiments.efficiency.config import EfficiencyConfig
from experiments.efficiency.report import REPORT
from experiments.efficiency.static_estimate import estimate
from experiments.efficiency.training_speed import measure_all
from experiments.language_modeling.models import make_models

#: What the page shows of a static estimate, where there is one.
SHOWN = (
    "failed", "fits", "hbm_bytes_per_chip", "hbm_limit", "static_compute_seconds", "static_hbm_seconds",
    "static_interconnect_seconds", "static_network_seconds", "static_step_seconds", "tokens_per_second",
)  # fmt: skip


def main(config: EfficiencyConfig, workdir: Path) -> dict[str, Any]:
    """Measures what is missing and returns the results."""
    base = dataclasses.replace(config.model, vocab_size=config.vocab_size)
    models = make_models(config.models, base)
    shapes = [(length, config.tokens_per_step // length) for length in config.lengths]
    speed = measure_all(models, shapes, config.repeats, workdir)
    variants = list(dict.fromkeys(str(model.variant) for model in models.values()))
    shared = ("tokens_per_step", "repeats", "tpu_topology", "tpu_preset")
    return {
        "config": {
            **{name: getattr(config, name) for name in shared},
            "dtype": config.model.dtype,
        },
        "speed": speed,
        "tpu": _estimates(config, variants if config.tpu_topology else [], workdir / "tpu"),
    }


def _estimates(config: EfficiencyConfig, variants: list[str], workdir: Path) -> dict[str, Any]:
    records, rows = [], []
    for variant in variants:
        key = {"model": variant, "preset": config.tpu_preset, "topology": config.tpu_topology}

        def compiled(variant: str = variant) -> dict[str, Any]:
            return {"report": estimate(variant, config.tpu_preset, config.tpu_topology)}

        record = keep(workdir / f"{config.tpu_preset}_{variant}", key, compiled)
        if record is not None:
            records.append(record)
            row = {name: record["report"][name] for name in SHOWN if name in record["report"]}
            rows.append({"model": variant, **row})
            print(f"{variant} on {config.tpu_topology}: {_said(row)}", flush=True)
    return {"origin": origin(records), "rows": rows}


def _said(row: dict[str, Any]) -> str:
    if "failed" in row:
        return row["failed"]
    if not row["fits"]:
        return "too large"
    return f"{row['tokens_per_second']:,.0f} tokens/s by static estimate"


if __name__ == "__main__":
    command.study(main, REPORT, EfficiencyConfig, "efficiency")
