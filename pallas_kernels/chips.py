"""What each TPU can do: matrix units, clock, memory. The one table of them.

Peak FLOP/s, HBM bandwidth, cores per chip and the number and width of a core's matrix units are Google's
published figures (``source`` of each chip); the VMEM sizes and the widths are also in JAX's own
``jax/_src/pallas/mosaic/tpu_info.py``; asked for more VMEM than there is, libtpu's compiler names its size.
HBM capacities and interconnect rates are published there too, the latter one way: half of what Google calls
bidirectional. v4 has six links of 50 GB/s (Jouppi et al. 2023, arXiv 2304.01433); its data-centre network is
not published per chip, and v5p's is taken.

Clocks follow from the peak. A unit of width w holds a [w, w] operand and multiplies ``rows_per_cycle`` rows by
it in a cycle: one on v4 and v5. On v6e and TPU7x it is two: the published peak of v6e over two 256-wide units
at one row would be a clock of 3.5 GHz, and libtpu's own estimate of a large matmul (8192^3 in 2.98 million
cycles) is more than two such units could do.
"""

import dataclasses

GOOGLE = "https://docs.cloud.google.com/tpu/docs/"


@dataclasses.dataclass(frozen=True)
class Chip:
    """One TPU generation. A kernel's grid step runs on one core; all else is per chip.

    Attributes:
        name: as in a topology's name, before the colon.
        cores: TensorCores per chip, which share the HBM bandwidth.
        device_cores: TensorCores of a device of libtpu's topology: v5p's device is the chip (a parallel grid dimension
            is split between its cores), v4 and TPU7x have a device for each core.
        units: matrix units per core.
        width: rows and columns of a matrix unit.
        rows_per_cycle: rows that a unit multiplies in a cycle.
        peak: bf16 FLOP/s of the chip.
        hbm: bytes per second of the chip.
        vmem: bytes of VMEM of a core.
        kinds: ``device_kind`` of its devices.
        hbm_bytes: HBM capacity of the chip.
        interconnect: bytes per second that the chip sends over all its links together.
        dimensions: of the torus that the links form, two links for each.
        network: bytes per second that the chip sends over the data-centre network, between slices.
        source: where peak, hbm, cores and units are published.
    """

    name: str
    cores: int
    device_cores: int
    units: int
    width: int
    rows_per_cycle: int
    peak: float
    hbm: float
    vmem: int
    kinds: tuple[str, ...]
    hbm_bytes: int
    interconnect: float
    dimensions: int
    network: float
    source: str

    @property
    def flops_per_cycle(self) -> int:
        """Multiplications and additions of all matrix units of one core in a cycle."""
        return 2 * self.units * self.width**2 * self.rows_per_cycle

    @property
    def core_peak(self) -> float:
        """bf16 FLOP/s of one core."""
        return self.peak / self.cores

    @property
    def core_hbm(self) -> float:
        """Bytes per second of one core while all cores of the chip use the HBM."""
        return self.hbm / self.cores

    @property
    def clock(self) -> float:
        """Cycles per second, from the published peak."""
        return self.core_peak / self.flops_per_cycle

    @property
    def hbm_per_cycle(self) -> float:
        """HBM bytes per cycle for one core while all cores of the chip use it."""
        return self.core_hbm / self.clock

    def matmul_cycles(self, rows: int, inner: int, columns: int) -> float:
        """Fewest cycles of one core for [rows, inner] @ [inner, columns], in one bf16 pass.

        The stationary operand [inner, columns] is padded to whole tiles of the unit's width, except that a
        tile with at most half the width both ways takes half the time (v6e and TPU7x: libtpu schedules a
        128-wide product in 16 cycles where 256-wide ones of as many rows take 32).
        """
        full_inner, last_inner = divmod(inner, self.width)
        full_columns, last_columns = divmod(columns, self.width)
        tiles = (full_inner + (last_inner > 0)) * (full_columns + (last_columns > 0))
        # Units 128 wide know no half tiles: 64-wide heads cost what 128-wide ones do.
        half = self.width // 2 if self.width > LANES else 0
        corner = 0 < last_inner <= half and 0 < last_columns <= half
        return rows * (tiles - 0.5 * corner) / (self.units * self.rows_per_cycle)


LANES = 128
MIB, GIB = 2**20, 2**30

# fmt: off
CHIPS = {
    chip.name: chip
    for chip in (
        Chip("v4", 2, 1, 4, 128, 1, 275e12, 1228e9, 16 * MIB, ("TPU v4",),
             32 * GIB, 300e9, 3, 6.25e9, GOOGLE + "v4"),
        Chip("v5e", 1, 1, 4, 128, 1, 197e12, 819e9, 128 * MIB, ("TPU v5e", "TPU v5 lite"),
             16 * GIB, 200e9, 2, 3.125e9, GOOGLE + "v5e"),
        Chip("v5p", 2, 2, 4, 128, 1, 459e12, 2765e9, 64 * MIB, ("TPU v5p", "TPU v5"),
             95 * GIB, 600e9, 3, 6.25e9, GOOGLE + "v5p"),
        Chip("v6e", 1, 1, 2, 256, 2, 918e12, 1640e9, 128 * MIB, ("TPU v6e", "TPU v6 lite"),
             32 * GIB, 400e9, 2, 12.5e9, GOOGLE + "v6e"),
        Chip("TPU7x", 2, 1, 2, 256, 2, 2307e12, 7380e9, 64 * MIB, ("TPU7x", "TPU7"),
             192 * GIB, 600e9, 3, 12.5e9, GOOGLE + "tpu7x"),
    )
}
# fmt: on


def chip_of(topology: str) -> Chip:
    """The chip of a topology such as "v5e:2x2".

    Raises:
        ValueError: for a chip that is not in the table.
    """
    name = topology.partition(":")[0]
    if name not in CHIPS or ":" not in topology:
        raise ValueError(
            f"topology must be CHIP:SHAPE with a chip of {tuple(CHIPS)}, e.g. 'v5e:2x2' or 'v5p:2x2x1',"
            f" got {topology!r}"
        )
    return CHIPS[name]
