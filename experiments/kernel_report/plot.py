"""The roofline picture: matmul speed that the schedule would reach, against arithmetic intensity, per chip."""

import functools
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np

from pallas_kernels.chips import Chip, chip_of

MARKERS = {"forward": "o", "backward": "^"}


def roofline(rows: list[dict[str, Any]], path: Path) -> None:
    """Writes a PNG with one panel per chip.

    A point is one row: flops of the memory's matmuls per byte through HBM, and flops per second if the bundles took
    one cycle each. The roof is one core's share of the chip's published peak and bandwidth.

    Args:
        rows: of the report; those without a schedule are left out.
        path: of the PNG.
    """
    topologies = list(dict.fromkeys(row["topology"] for row in rows))
    rows = [row for row in rows if row["bundles"] is not None]
    figure, panels = plt.subplots(
        1, len(topologies), figsize=(1 + 5.5 * len(topologies), 5), squeeze=False, sharey=True
    )
    colours = plt.get_cmap("tab10")
    heads = sorted({row["d_head"] for row in rows})
    for panel, topology in zip(panels[0], topologies, strict=True):
        chip = chip_of(topology)
        _roof(panel, chip)
        for row in rows:
            if row["topology"] == topology:
                x, y = _point(row, chip)
                panel.plot(
                    *(x, y),
                    MARKERS[row["direction"]],
                    color=colours(heads.index(row["d_head"])),
                    markersize={64: 4, 128: 6.5, 256: 9}.get(row["tile"], 6),
                    alpha=0.75,
                )
        panel.set(xscale="log", yscale="log", xlabel="flops per HBM byte", title=topology)
        panel.margins(y=0.1)
        panel.grid(which="both", alpha=0.2)
    panels[0][0].set_ylabel("static TFLOP/s of one core (padding not counted)")
    handles: list[Any] = [
        plt.Line2D([], [], linestyle="", marker="s", color=colours(i), label=f"d_head {head}")
        for i, head in enumerate(heads)
    ]
    handles += [
        plt.Line2D([], [], linestyle="", marker=marker, color="grey", label=direction)
        for direction, marker in MARKERS.items()
    ]
    panels[0][-1].legend(handles=handles, loc="lower right", fontsize=9)
    figure.suptitle(
        "Static estimates, not measurements; larger marks are larger chunks\n"
        "(backward counted as 3 x forward, more than its kernel multiplies)"
    )
    figure.tight_layout()
    figure.savefig(path, dpi=120)
    plt.close(figure)


def _roof(panel: Any, chip: Chip) -> None:
    peak, bandwidth = chip.peak / chip.cores, chip.hbm / chip.cores
    ridge = peak / bandwidth
    corners = np.array([20, ridge, 4000])
    panel.plot(corners, np.minimum(peak, corners * bandwidth) / 1e12, color="black")
    # Beside the roof, where no mark can be.
    label = functools.partial(panel.text, ha="right", va="bottom", fontsize=9)
    label(ridge, peak / 1e12 * 1.05, f"{peak / 1e12:.0f} TFLOP/s")
    label(45, 50 * bandwidth / 1e12, f"{bandwidth / 1e9:.0f} GB/s")


def _point(row: dict[str, Any], chip: Chip) -> tuple[float, float]:
    """Flops per byte and TFLOP/s of a row."""
    per_tile = row["hbm_bytes_per_token"] * row["tile"]
    return row["flops"] / per_tile, row["flops"] / row["bundles"] * chip.clock / 1e12
