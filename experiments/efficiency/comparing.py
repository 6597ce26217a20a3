"""All rows of the training-speed comparison: every model at every length, and the static estimates."""

import dataclasses
from pathlib import Path
from typing import Any

import jax

from experiments.efficiency.config import EfficiencyConfig
from experiments.efficiency.rows import Rows
from experiments.efficiency.static_estimate import estimate
from experiments.efficiency.training_speed import measure
from experiments.language_modeling.models import make_models


def run(config: EfficiencyConfig, workdir: Path) -> dict[str, Any]:
    """Measures what is missing.

    Returns:
      "config", "speed" (rows with "model", "length", "batch_size" and what `measure` returns) and "tpu" (rows with
      "model" and the compile report).
    """
    base = dataclasses.replace(config.model, vocab_size=config.vocab_size)
    models = make_models(config.models, base)
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
