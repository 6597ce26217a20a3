"""The compile report of the paper's four sizes and four variants on one topology, one sequence per device.

    python -m experiments.compile_report.table --topology=v5e:16x16 --output=experiments/results/compile_report

Rows that are in the output already are kept, so that it may be interrupted. About a minute a row on one CPU core.
"""

import dataclasses
import importlib
import json
from pathlib import Path
from typing import Any

from absl import flags

from experiments import command
from experiments.compile_report.compile import compile_step, topology_devices, use_compiler_only
from experiments.compile_report.report import row
from experiments.training.config import train_config
from experiments.training.workdir import versions
from pallas_kernels.chips import chip_of

SIZES = ("170m", "340m", "400m", "760m")
VARIANTS = ("mac", "mag", "mal", "lmm")
VOCABULARY = 32_000


def define_flags() -> None:
    """The program's flags."""
    flags.DEFINE_string("topology", "v5e:16x16", "chip and shape")
    flags.DEFINE_string("output", "runs/compile_report", "folder of the tables")


def main() -> None:
    """Compiles what is missing and writes the table after every row."""
    use_compiler_only()
    try:
        chip, devices = chip_of(flags.FLAGS.topology), topology_devices(flags.FLAGS.topology)
    except ValueError as error:
        raise SystemExit(f"error: {error}") from error
    name = flags.FLAGS.topology.replace(":", "_")
    path = Path(flags.FLAGS.output) / f"{name}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    rows = json.loads(path.read_text(encoding="utf-8"))["rows"] if path.exists() else []
    done = {(r["size"], r["variant"]) for r in rows}
    for size in SIZES:
        module = importlib.import_module(f"experiments.configs.titans_{size}")
        for variant in VARIANTS:
            if (size, variant) in done:
                continue
            config = train_config(module.get_config(variant))
            config = dataclasses.replace(
                config,
                batch_size=len(devices),
                model=dataclasses.replace(config.model, vocab_size=VOCABULARY),
            )
            step, _ = compile_step(config, devices)
            rows.append({"size": size, **row(config, step, chip, devices)})
            result = {"topology": flags.FLAGS.topology, "versions": versions(), "rows": rows}
            path.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
            path.with_suffix(".md").write_text(_markdown(result), encoding="utf-8")
            print(f"{size} {variant}: {step.seconds:.0f} s", flush=True)


def _markdown(result: dict[str, Any]) -> str:
    lines = [
        f"# {result['topology']}: static estimates, nothing was run",
        "",
        f"    python -m experiments.compile_report.table --topology={result['topology']}",
        "",
        "One sequence of 4,096 tokens per device, parameters and optimizer over all of them (mesh.fsdp), blocks "
        "recomputed in the backward pass. Seconds are what the matmuls, the HBM traffic and the collectives would take "
        "at the chip's published rates, each alone; the step is the largest of them, and MFU counts three times the "
        f"forward pass' matmuls. jax {result['versions']['jax']}.",
        "",
        "| size | variant | HBM per chip, GiB | compute, s | HBM, s | interconnect, s | MFU | tokens/s | days to 15B | "
        "days to 30B |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for r in result["rows"]:
        memory = f"{r['hbm_bytes_per_chip'] / 2**30:.2f} of {r['hbm_limit'] / 2**30:.0f}"
        if not r["fits"]:
            lines.append(f"| {r['size']} | {r['variant']} | {memory}: too large | | | | | | | |")
            continue
        days = r["static_days"]
        lines.append(
            f"| {r['size']} | {r['variant']} | {memory} | {r['static_compute_seconds']:.4f} | "
            f"{r['static_hbm_seconds']:.4f} | {r['static_interconnect_seconds']:.4f} | {100 * r['static_mfu']:.0f} % | "
            f"{r['tokens_per_second']:,.0f} | {days['15B']:.2f} | {days['30B']:.2f} |"
        )
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    command.run(main, define_flags, cached=False)
