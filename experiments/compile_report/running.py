"""The report at the start of a real run on TPUs: its step is compiled here, reported, and then run."""

import json
from typing import Any

import jax
from etils import epath

from experiments.compile_report.compile import compile_step
from experiments.compile_report.report import markdown, row
from experiments.training.config import TrainConfig
from experiments.training.processes import is_first, say
from pallas_kernels.chips import CHIPS


class TooLargeError(ValueError):
    """A training step needs more memory than the devices have."""


def compile_and_report(config: TrainConfig, folder: epath.Path) -> Any:
    """Compiles the training step for the devices of all processes and prints its report.

    Args:
      config: of the run, with the model that is trained.
      folder: where compile_report.json is written.

    Returns:
      The compiled step; None where the devices are no TPU of pallas_kernels/chips.py: there is nothing to report.

    Raises:
      TooLargeError: it gives the bytes.
    """
    devices = jax.devices()
    chip = next((c for c in CHIPS.values() if devices[0].device_kind in c.kinds), None)
    if devices[0].platform != "tpu" or chip is None:
        return None
    step, compiled = compile_step(config, devices)
    slices = len({getattr(device, "slice_index", 0) for device in devices})
    result = {
        "config": config.model.variant,
        "topology": f"{chip.name}, {len(devices) // slices} devices",
        "num_slices": slices,
        **row(config, step, chip, devices),
    }
    if is_first():
        (folder / "compile_report.json").write_text(json.dumps(result, indent=1) + "\n")
    say(markdown(result))
    if not step.fits:
        raise TooLargeError(
            f"{config.model.variant}: the training step needs {step.total:,} bytes of HBM on each device, and there "
            f"are {step.limit:,}: lower config.batch_size, or raise config.accumulation, mesh.fsdp or mesh.tensor"
        )
    return compiled
