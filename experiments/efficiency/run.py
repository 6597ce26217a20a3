"""Training speed of every model against sequence length, and what the compiler expects of a TPU: the paper's Fig. 9.

    python -m experiments.efficiency.run

times the training step of models of equal size at equal tokens per step (length x batch), with the memory it needs, on
this machine; then compiles the step of a preset of the paper's size for TPUs that are absent, and reports the static
estimate. It needs no data. Every finished row is kept in the workdir, and the same command continues.
"""

import dataclasses
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from experiments import command
from experiments.comparison.store import keep, origin
from experiments.efficiency.peer_processes import ROOT
from experiments.efficiency.report import REPORT
from experiments.efficiency.training_speed import measure_all
from experiments.language_modeling.named_models import make_models
from titans_jax import TitansConfig
from titans_jax.fields import (
    check_divisors,
    check_fields,
    field,
    instance_of,
    positive_int,
    several,
    string,
)


@dataclasses.dataclass(frozen=True)
class EfficiencyConfig:
    """What is measured.

    Attributes:
      models: names (experiments/language_modeling/models.py).
      model: what they share; all get its number of parameters.
      vocab_size: tokens of the vocabulary.
      lengths: tokens of a sequence.
      tokens_per_step: the batch size is this over the length.
      repeats: steps timed of each.
      tpu_topology: for which the preset's step is compiled, such as "v5e:8x8"; "" for no static estimate.
      tpu_preset: one of the paper's sizes, experiments/configs/titans_SIZE.py.
    """

    models: tuple[str, ...] = field(
        ("lmm", "mac", "mag", "mal", "transformer", "transformer_window"), several(string, least=0)
    )
    model: TitansConfig = field(TitansConfig(), instance_of(TitansConfig))
    vocab_size: int = field(256, positive_int)
    lengths: tuple[int, ...] = field((512, 2048, 8192), several(positive_int))
    tokens_per_step: int = field(8192, positive_int)
    repeats: int = field(3, positive_int)
    tpu_topology: str = field("v5e:8x8", string)
    tpu_preset: str = field("400m", string)

    def __post_init__(self) -> None:
        check_fields(self)
        check_divisors("lengths", self.lengths, "tokens_per_step", self.tokens_per_step)


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


def estimate(variant: str, preset: str, topology: str, *flags: str) -> dict[str, Any]:
    """The compile report of a preset's training step for TPUs that are absent.

    In a process of its own because libtpu, once loaded, changes what the rest of a program sees.

    Args:
      variant: of the model.
      preset: one of the paper's sizes.
      topology: chip and shape.
      *flags: further ones of experiments.compile_report.

    Returns:
      The report as a dict; or {"failed": ...}, what the command said, where it has none.
    """
    config = f"--config=experiments/configs/titans_{preset}.py:{variant}"
    command = [
        sys.executable,
        "-m",
        "experiments.compile_report",
        config,
        f"--topology={topology}",
        "--json",
        *flags,
    ]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        lines = done.stderr.strip().splitlines() or ["it ended without a message"]
        return {"failed": lines[-1]}
    return json.loads(done.stdout[done.stdout.index("{") :])


def _said(row: dict[str, Any]) -> str:
    if "failed" in row:
        return row["failed"]
    if not row["fits"]:
        return "too large"
    return f"{row['tokens_per_second']:,.0f} tokens/s by static estimate"


if __name__ == "__main__":
    command.study(main, REPORT, EfficiencyConfig, "efficiency")
