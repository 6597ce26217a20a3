"""The report as a dict for JSON, and as text."""

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

from experiments.compile_report.compile import Step, devices_per_chip
from experiments.compile_report.estimate import estimate
from experiments.training.config import TrainConfig
from pallas_kernels.chips import Chip

SECONDS_PER_DAY = 86_400
PAPER_TOKENS = (15e9, 30e9)


def row(config: TrainConfig, step: Step, chip: Chip, devices: Sequence[Any]) -> dict[str, Any]:
    """What the report says of one compiled step.

    Args:
      config: of the run.
      step: compiled.
      chip: the devices' kind.
      devices: of the topology.
    """
    each = devices_per_chip(devices)
    tokens = config.batch_size * config.data.sequence_length
    result: dict[str, Any] = {
        "variant": config.model.variant,
        "devices": step.devices,
        "mesh": {
            axis: getattr(config.mesh, axis) for axis in ("data", "fsdp", "sequence", "tensor")
        },
        "tokens_per_step": tokens,
        "fits": step.fits,
        "hbm_bytes_per_chip": step.total * each,
        "hbm_limit": chip.hbm_bytes if step.limit is None else step.limit * each,
        "hbm_parameters": step.parameters * each,
        "hbm_optimizer": step.optimizer * each,
        "hbm_activations": (step.total - step.parameters - step.optimizer) * each,
        "compile_seconds": round(step.seconds, 1),
        "flops_per_token": step.flops / tokens,
        "flops_per_step": step.flops,
    }
    if not step.fits:
        return result
    static = estimate(config, step, chip, devices)
    by_kind: dict[str, float] = defaultdict(float)
    for collective in step.collectives:
        by_kind[f"{collective.kind} over {', '.join(collective.axes)}"] += collective.bytes * each
    return result | {
        "collective_bytes": dict(by_kind),
        "static_compute_seconds": static.compute,
        "static_hbm_seconds": static.hbm,
        "static_interconnect_seconds": static.interconnect,
        "static_network_seconds": static.network,
        "static_step_seconds": static.seconds,
        "static_mfu": static.mfu,
        "tokens_per_second": static.tokens_per_second,
        "static_days": {
            f"{int(tokens / 1e9)}B": tokens / static.tokens_per_second / SECONDS_PER_DAY
            for tokens in PAPER_TOKENS
        },
    }


def markdown(result: dict[str, Any]) -> str:
    """The report as text."""
    mesh = ", ".join(f"{axis} {size or 'rest'}" for axis, size in result["mesh"].items())
    lines = [
        f"{result['config']} on {result['num_slices']} x {result['topology']}, {result['devices']} devices ({mesh})",
        "Static estimates from the compiler and published rates; nothing was run.",
        "",
        f"fits                {'yes' if result['fits'] else 'NO'}",
        f"HBM per chip        {_gib(result['hbm_bytes_per_chip'])} of {_gib(result['hbm_limit'])}: parameters "
        f"{_gib(result['hbm_parameters'])}, optimizer {_gib(result['hbm_optimizer'])}, the rest "
        f"{_gib(result['hbm_activations'])}",
        f"flops               {result['flops_per_token']:.3e} per token, {result['flops_per_step']:.3e} per step of "
        f"{result['tokens_per_step']:,} tokens",
    ]
    if not result["fits"]:
        lines.append(
            "Smaller: config.batch_size (or more config.accumulation), model.remat, more mesh.fsdp or mesh.tensor."
        )
        return "\n".join(lines)
    lines += ["sent by a chip      " + (
        "\n                    ".join(
            f"{size / 1e6:,.1f} MB {name}" for name, size in result["collective_bytes"].items()
        ) or "nothing"
    )]  # fmt: skip
    lines += [
        "seconds             "
        + ", ".join(
            f"{name} {result[f'static_{name}_seconds']:.4f}"
            for name in ("compute", "hbm", "interconnect", "network")
        ),
        f"step                {result['static_step_seconds']:.4f} s, MFU {100 * result['static_mfu']:.0f} %, "
        f"{result['tokens_per_second']:,.0f} tokens/s",
        "days                "
        + ", ".join(f"{days:.1f} to {name} tokens" for name, days in result["static_days"].items()),
    ]
    if "largest_batch_per_device" in result:
        lines.append(
            f"largest batch       {result['largest_batch_per_device']} sequences per device"
        )
    return "\n".join(lines)


def _gib(size: float) -> str:
    return f"{size / 2**30:.2f} GiB"
