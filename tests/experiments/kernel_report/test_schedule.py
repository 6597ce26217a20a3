"""The counts of schedule.py and hlo_cycles.py on programs whose schedules can be reasoned about."""

import functools
from pathlib import Path

import pytest

from experiments.kernel_report.children import ChildError
from experiments.kernel_report.compile import load_program, measure
from experiments.kernel_report.schedule import count
from pallas_kernels.chips import CHIPS

PROGRAMS = str(Path(__file__).with_name("programs.py"))
V5E, V6E = "v5e:2x2", "v6e:2x2"


@functools.cache
def schedule(function, topology, **arguments):
    pytest.importorskip("libtpu", reason="no TPU compiler here")
    compiled = measure(f"{PROGRAMS}:{function}", topology, **arguments)
    (kernel,) = compiled.kernels
    return kernel


@pytest.mark.slow
class TestMatrixCycles:
    """The compiler's slots and the table of chips are two sources of one number: flops over what the units do."""

    @pytest.mark.parametrize(
        ("topology", "width"), [(V5E, 128), (V5E, 256), (V6E, 128), (V6E, 256), ("v4:2x2x1", 128)]
    )
    def test_equal_the_table(self, topology, width):
        chip = CHIPS[topology.partition(":")[0]]
        kernel = schedule("products", topology, width=width, chain=3)
        assert kernel.matrix_cycles == 3 * chip.matmul_cycles(width, width, width)

    def test_narrow_heads_cost_what_128_wide_ones_do(self):
        narrow = schedule("products", V5E, width=64, chain=2)
        assert narrow.matrix_cycles == 2 * CHIPS["v5e"].matmul_cycles(64, 64, 64)
        assert narrow.matrix_cycles == CHIPS["v5e"].matmul_cycles(128, 128, 128)


@pytest.mark.slow
class TestBundles:
    def test_twice_the_products_take_twice_the_bundles(self):
        one, two, four = (schedule("products", V5E, width=128, chain=n) for n in (4, 8, 16))
        assert four.bundles - two.bundles == pytest.approx(2 * (two.bundles - one.bundles), rel=0.1)
        assert four.cycles - two.cycles == pytest.approx(2 * (two.cycles - one.cycles), rel=0.1)

    def test_a_chain_waits_and_independent_work_fills_the_wait(self):
        chain = schedule("products", V5E, width=128, chain=16)
        filled = schedule("products", V5E, width=128, chain=4, parallel=4)
        assert chain.matrix_cycles == filled.matrix_cycles
        assert chain.cycles > 3 * chain.bundles
        assert filled.cycles < chain.cycles / 2

    def test_an_inner_loop_counts_once_per_trip(self):
        once = schedule("products", V5E, width=128, chain=2, loop=3)
        thrice = schedule("products", V5E, width=128, chain=2, loop=9)
        unrolled = schedule("products", V5E, width=128, chain=18)
        assert thrice.matrix_cycles == 3 * once.matrix_cycles == unrolled.matrix_cycles
        assert 2 < thrice.bundles / once.bundles < 3


class TestCount:
    def test_of_a_schedule_written_by_hand(self):
        """Two bundles before the loop; in it 3, an inner loop of 2 with a shadow of 2, then 2 and a shadow of 2."""
        bundles = """
     0   :  { %7 = vsyncpa [#allocation4], 0 }
   0x1   :  {}
   0x2 LB: > { %s1 = smov 0 }
   0x3   :  {}
   0x4   : > { %9 = sbr.rel (%p9_p0) target = $region4 }
   0x5 LB: >> { %p5_p1 = scmp.ge.s32.totalorder %s5_s5, 3 /* loop exit test */ }
   0x6   : >> { %8 = sbr.rel (!%p5_p1) target = $region5 }
   0x7   : > { %v1 = vld [vmem:[#allocation2]] (%p5_p1) }
   0x8   : >> { %v2 = vmov 0.0 }
   0x9 PF: > { %p6_p2 = scmp.ge.s32.totalorder %s6_s6, 10 /* loop exit test */ }
   0xa   : > { %9 = sbr.rel (!%p6_p2) target = $region6 }
   0xb   :  {}
   0xc   :  {} /* End region 6 */
   0xd   :  { %563 = vsyncpa [#allocation4], 1 }
"""
        units = "== CAPACITY:\nMXU, VLOAD, VLOAD:FILL, VSTORE, VSTORE:SPILL\n4 3 3 1 1\n== UTILIZATION:\n"
        slots = units + "2 0 0 0 0\n" * 14
        schedule = count("k", bundles, slots, bundles, slots)
        assert schedule.bundles == schedule.cycles == 3 + 3 * (2 + 2) + 2 + 2
        assert schedule.matrix_slots_used == 0.5
        assert schedule.matrix_cycles == schedule.bundles * 2 / 4


class TestRefusals:
    def test_too_much_vmem_is_the_compilers_message(self):
        pytest.importorskip("libtpu", reason="no TPU compiler here")
        with pytest.raises(ChildError, match=r"vmem|VMEM"):
            measure(f"{PROGRAMS}:resident", V5E, megabytes=200)

    def test_time_limit(self):
        with pytest.raises(ChildError, match="seconds"):
            measure(f"{PROGRAMS}:resident", V5E, timeout=0.01, megabytes=1)

    @pytest.mark.parametrize("program", ["no_colon", f"{PROGRAMS}:nothing"])
    def test_unknown_program(self, program):
        with pytest.raises(ValueError, match="program"):
            load_program(program)

    def test_dumps_of_another_form(self):
        slots = "== CAPACITY:\nMXU, SALU\n4 2\n== UTILIZATION:\n0 1\n0 1\n"
        bundles = "     0   :  { %7 = vsyncpa [#allocation4], 0 }\n"
        with pytest.raises(ValueError, match="1 bundles but 2 lines"):
            count("k", bundles, slots, bundles, slots)


@pytest.mark.slow
class TestXLACycles:
    def test_a_loop_counts_once_per_trip(self):
        pytest.importorskip("libtpu", reason="no TPU compiler here")
        few, many = (
            measure(f"{PROGRAMS}:xla_loop", V5E, trips=trips).xla_cycles for trips in (10, 20)
        )
        least = CHIPS["v5e"].matmul_cycles(512, 512, 512)
        assert many - few > 10 * least
        assert many - few < 10 * 4 * least
