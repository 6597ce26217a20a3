"""Compiles a training step for a TPU topology that is not here and says whether it fits and how fast it should be.

    python -m experiments.compile_report --config=experiments/configs/titans_760m.py:mag --topology=v5e:8x8

Everything printed is a static estimate from the compiler and the chip's published rates. --json prints only JSON.
"""

import dataclasses
import json
import sys

import jax
from absl import flags
from ml_collections import config_flags

from experiments import command
from experiments.compile_report.compile import compile_step, topology_devices, use_compiler_only
from experiments.compile_report.report import markdown, row
from experiments.training.config import TrainConfig, train_config
from pallas_kernels.chips import chip_of


def define_flags() -> None:
    """The program's flags."""
    config_flags.DEFINE_config_file("config", None, "a file of experiments/configs/")
    flags.mark_flag_as_required("config")
    flags.DEFINE_string("topology", "v5e:8x8", "chip and shape, e.g. v5e:16x16, v5p:8x8x8")
    flags.DEFINE_integer("num_slices", 1, "slices of that topology", lower_bound=1)
    flags.DEFINE_integer("vocab_size", 32_000, "tokens of the vocabulary", lower_bound=1)
    flags.DEFINE_bool("find_batch", False, "also find the largest batch per device that fits")
    flags.DEFINE_bool("json", False, "print only JSON")


def main() -> None:
    """Compiles and reports; a configuration that does not fit is an answer, not an error."""
    use_compiler_only()
    try:
        config = train_config(flags.FLAGS.config)
        model = dataclasses.replace(config.model, vocab_size=flags.FLAGS.vocab_size)
        config = dataclasses.replace(config, model=model)
        chip = chip_of(flags.FLAGS.topology)
        devices = topology_devices(flags.FLAGS.topology, flags.FLAGS.num_slices)
        result = row(config, compile_step(config, devices)[0], chip, devices)
        if flags.FLAGS.find_batch:
            result["largest_batch_per_device"] = _largest_batch(config, devices)
    except (ValueError, OSError, ImportError) as error:
        raise SystemExit(f"error: {error}") from error
    result = {
        "config": next(a for a in sys.argv if a.startswith("--config=")).removeprefix("--config="),
        "topology": flags.FLAGS.topology,
        "num_slices": flags.FLAGS.num_slices,
        **result,
    }
    print(json.dumps(result, indent=1) if flags.FLAGS.json else markdown(result), flush=True)


def _largest_batch(config: TrainConfig, devices: list[jax.Device]) -> int:
    """Sequences per device of the largest batch that compiles: doubled while it fits, then halved in between."""
    together = len(devices) // (config.mesh.tensor * config.mesh.sequence)

    def fits(each: int) -> bool:
        batch = together * each * config.accumulation
        step, _ = compile_step(dataclasses.replace(config, batch_size=batch), devices)
        print(
            f"{each} sequences per device: {step.total / 2**30:.2f} GiB, {'fits' if step.fits else 'too large'}",
            file=sys.stderr,
            flush=True,
        )
        return step.fits

    low, high = 0, 1
    while fits(high):
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    return low


if __name__ == "__main__":
    command.run(main, define_flags, config=TrainConfig, cached=False)
