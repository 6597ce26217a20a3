"""What chips send one another in a training step, from the text of the compiled program.

Every collective is counted with its kind, the mesh axes along which its groups run, and the bytes that a chip sends: of
n chips in a ring, (n - 1) / n of what is gathered, scattered or exchanged, twice that for an all-reduce, and a
permutation's whole operand.
"""

import math
import re
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from experiments.hlo import array_types, operations

KINDS = ("all-gather", "all-reduce", "reduce-scatter", "all-to-all", "collective-permute")
_OPERATION = re.compile(rf"^\s*(?:ROOT )?%[\w.-]+ = (.*?) ({'|'.join(KINDS)})(-start)?\(")
_CHANNEL = re.compile(r"channel_id=\d+")
_LISTED = re.compile(r"replica_groups=\{(\{[\d,]*\}(?:,\{[\d,]*\})*)\}")
_IOTA = re.compile(r"replica_groups=\[([\d,]+)\]<=\[([\d,]+)\](?:T\(([\d,]+)\))?")
_ALONG = re.compile(r"replica_groups=mesh\[([^\]]*)\] \{([^}]*)\}")
#: Between slices the host's network runtime does it: the chip hands its part over.
_BETWEEN_SLICES = re.compile(r' send\(.*_xla_megascale_transfer_type="(\w+)"')
_TARGET = re.compile(r'_xla_megascale_target="\{([\d,:]+)\}')
_PAIRS = re.compile(r"source_target_pairs=\{(\{[\d,]*\}(?:,\{[\d,]*\})*)\}")
#: libtpu writes a reduce-scatter as a fusion of this name around an all-reduce and a slice.
_FUSED_SCATTER = "all-reduce-scatter"
#: In place of a mesh axis: between slices.
SLICES = "slices"


class Collective(NamedTuple):
    """One collective operation of the step.

    Attributes:
        kind: one of `KINDS`.
        axes: mesh axes along which its groups run, or `SLICES`.
        chips: devices in a group.
        bytes: that a device sends in a step, all runs of the operation together.
        times: runs in a step.
    """

    kind: str
    axes: tuple[str, ...]
    chips: int
    bytes: float
    times: int


def collectives(hlo: str, axes: Sequence[str], shape: Sequence[int]) -> list[Collective]:
    """Every collective of a compiled program.

    Args:
        hlo: ``compiled.as_text()``.
        axes: names of the mesh's axes.
        shape: their sizes; devices are numbered in the mesh's order.

    Raises:
        ValueError: for groups written in a way that is not known.
    """
    found: dict[str, Collective] = {}
    for line, times, computation in operations(hlo):
        if between := _BETWEEN_SLICES.search(line):
            found[line] = _between_slices(line, between[1], times)
            continue
        match = _OPERATION.search(line)
        if not match:
            continue
        # What runs piece by piece beside other work is written in every fusion that hides a piece of it.
        channel = _CHANNEL.search(line)
        name = channel[0] if channel else f"{computation} {line}"
        if name in found:
            continue
        groups = _groups(line, math.prod(shape))
        chips = groups.shape[1]
        if chips == 1:
            continue
        kind = "reduce-scatter" if _FUSED_SCATTER in computation else match[2]
        size = (
            _largest(match[1]) if match[3] else sum(array.bytes for array in array_types(match[1]))
        )
        if kind == "reduce-scatter" and match[2] == kind and not match[3]:
            size *= chips  # the result is what is left
        share = 1 if kind == "collective-permute" else (chips - 1) / chips
        sent = size * share * (2 if kind == "all-reduce" else 1)
        found[name] = Collective(kind, _along(groups, axes, shape), chips, sent * times, times)
    return list(found.values())


def _between_slices(line: str, kind: str, times: int) -> Collective:
    target = _TARGET.search(line)
    if target is None:
        raise ValueError(f"no slices in {line.strip()[:160]!r}")
    ends = [[int(n) for n in part.split(":")] for part in target[1].split(",")]
    slices = sum(part[-1] - part[0] + 1 for part in ends)
    name = kind.lower().replace("_", "-")
    sent = _largest(line.split(" send(")[0]) * (slices - 1) / slices
    sent *= 2 if name == "all-reduce" else 1
    return Collective(name, (SLICES,), slices, sent * times, times)


def _largest(text: str) -> int:
    """Of an asynchronous start, whose result holds operand and result, the larger."""
    return max(array.bytes for array in array_types(text))


def _groups(line: str, devices: int) -> np.ndarray:
    """Groups of devices, [groups, devices of one]."""
    if along := _ALONG.search(line):  # axes of a mesh of libtpu's own
        sizes = {name: int(size) for name, size in re.findall(r"'(\w+)'=(\d+)", along[1])}
        names = re.findall(r"'(\w+)'", along[2])
        grid = np.arange(math.prod(sizes.values())).reshape(tuple(sizes.values()))
        last = [list(sizes).index(name) for name in names]
        moved = np.moveaxis(grid, last, range(-len(last), 0))
        return moved.reshape(-1, math.prod(sizes[name] for name in names))
    if iota := _IOTA.search(line):
        shape, dims, order = (
            [int(n) for n in part.split(",")] if part else None for part in iota.groups()
        )
        return np.arange(math.prod(dims)).reshape(dims).transpose(order).reshape(shape)  # type: ignore[arg-type]
    if listed := (_LISTED.search(line) or _PAIRS.search(line)):
        rows = [[int(n) for n in row.split(",")] for row in re.findall(r"\{([\d,]+)\}", listed[1])]
        return np.array(rows)
    if "replica_groups={}" in line:
        return np.arange(devices)[None]
    raise ValueError(f"no groups of devices in {line.strip()[:160]!r}")


def _along(groups: np.ndarray, axes: Sequence[str], shape: Sequence[int]) -> tuple[str, ...]:
    places = np.stack(np.unravel_index(groups, tuple(shape)))  # [axes, groups, devices]
    varies = (places != places[:, :, :1]).any(axis=(1, 2))
    return tuple(axis for axis, flag in zip(axes, varies, strict=True) if flag)
