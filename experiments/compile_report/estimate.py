"""A static estimate of a step's time: the largest of compute, HBM and interconnect time at the chip's published rates.

Nothing here was measured on a TPU. Compute: the forward pass' matmuls, twice as many for the gradients, and once more
where the blocks are recomputed. HBM: bytes that the
compiled program reads and writes (traffic.py). Interconnect: bytes that a chip sends along a mesh
axis over the links of the torus dimensions that the axis spans; between slices, over the data-centre network. All
three at full rate and at the same time, so that the true time is longer.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from experiments.compile_report.collectives import SLICES, Collective
from experiments.compile_report.compile import Step, devices_per_chip
from experiments.training.config import TrainConfig
from experiments.training.mesh import AXES, make_layout
from pallas_kernels.chips import Chip


class Estimate(NamedTuple):
    """Static estimates of one step.

    Attributes:
        compute: seconds of the matmuls.
        hbm: seconds of memory traffic.
        interconnect: seconds of the collectives inside slices.
        network: seconds of those between slices.
        seconds: the largest of them.
        mfu: three times the forward pass' matmuls over what the chips could do in that time.
        tokens_per_second: of all devices.
    """

    compute: float
    hbm: float
    interconnect: float
    network: float
    seconds: float
    mfu: float
    tokens_per_second: float


def estimate(config: TrainConfig, step: Step, chip: Chip, devices: Sequence[Any]) -> Estimate:
    """The static estimate of a compiled step.

    Args:
        config: of the run.
        step: compiled for `devices`.
        chip: their kind.
        devices: of the topology.
    """
    per_chip = devices_per_chip(devices)
    peak, hbm = chip.peak / per_chip, chip.hbm / per_chip
    needed = step.flops / step.devices
    compute = needed * (4 / 3 if config.model.remat else 1) / peak
    memory = step.accessed / hbm
    mesh = make_layout(config.mesh, devices).mesh
    times = [(c, _seconds(c, chip, per_chip, mesh.devices)) for c in step.collectives]
    network = sum(t for c, t in times if SLICES in c.axes)
    interconnect = sum(t for _, t in times) - network
    seconds = max(compute, memory, interconnect, network)
    tokens = config.batch_size * config.data.sequence_length
    return Estimate(
        compute,
        memory,
        interconnect,
        network,
        seconds,
        needed / (peak * seconds),
        tokens / seconds,
    )


def _seconds(collective: Collective, chip: Chip, per_chip: int, grid: np.ndarray) -> float:
    if SLICES in collective.axes:
        return collective.bytes / (chip.network / per_chip)
    spanned = _spanned(collective.axes, grid)
    rate = chip.interconnect / per_chip * min(1.0, spanned / chip.dimensions)
    return collective.bytes / rate


def _group(axes: Sequence[str], grid: np.ndarray) -> list[Any]:
    """The devices of the mesh's first group along some axes."""
    index = tuple(slice(None) if axis in axes else 0 for axis in AXES)
    return list(np.ravel(grid[index]))


def _spanned(axes: Sequence[str], grid: np.ndarray) -> int:
    """Dimensions of the torus along which a group of devices lies; at least one."""
    coordinates = np.array([d.coords for d in _group(axes, grid)])
    return max(1, int((coordinates != coordinates[0]).any(axis=0).sum()))
