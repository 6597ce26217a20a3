"""The TPU's kernels compile for every chip, none of which is here."""

import functools

import jax
import pytest

from pallas_kernels import fused_scan
from pallas_kernels.fused_scan.vjp import UnsupportedError
from tests.pallas_kernels.memory_step import memory_shapes, memory_step
from tests.pallas_kernels.toy_step import outputs_and_gradients, toy_inputs, toy_step
from tests.pallas_kernels.tpu_compile import TOPOLOGIES, compile_for
from titans_jax.memory.networks import MLPNetwork

every_chip = pytest.mark.parametrize("chip", TOPOLOGIES)


def compiled(chip, step, *args, wrap=lambda f: f, **options):
    fused = wrap(functools.partial(fused_scan, step, **options))
    return compile_for(chip, outputs_and_gradients(fused), *args).as_text()


def has_kernels(module):
    return "fused_scan_forward" in module and "fused_scan_backward" in module


@every_chip
class TestEveryChip:
    def test_toy_is_the_default_on_a_tpu(self, chip):
        assert has_kernels(compiled(chip, toy_step, *toy_inputs()))

    def test_segments_and_groups_of_several(self, chip):
        options = {"checkpoint_every": 2, "groups_per_step": 3}
        assert has_kernels(compiled(chip, toy_step, *toy_inputs(), **options))

    @pytest.mark.parametrize(
        ("head_dim", "length"), [(128, 128), pytest.param(256, 32, marks=pytest.mark.slow)]
    )
    def test_deep_memory(self, chip, head_dim, length):
        network = MLPNetwork("mlp", 2, 2)
        args = memory_shapes(network, groups=1, chunks=2, length=length, head_dim=head_dim)
        assert has_kernels(compiled(chip, memory_step, *args))


class TestDeepMemory:
    def test_masks_resets_and_an_anchor(self):
        network = MLPNetwork("mlp", 2, 2)
        args = memory_shapes(network, 2, 2, length=32, head_dim=128, flags=True)
        assert has_kernels(compiled("v5e", memory_step, *args))

    def test_too_large_is_refused_before_it_is_compiled(self):
        network = MLPNetwork("mlp", 2, 4)
        args = memory_shapes(network, groups=2, chunks=2, length=256, head_dim=256)
        with pytest.raises(UnsupportedError, match=r"needs \d+ bytes of VMEM .*, and v4 has \d+"):
            compiled("v4", memory_step, *args, implementation="mosaic_tpu")


class TestTransformations:
    def test_checkpoint(self):
        assert has_kernels(compiled("v5e", toy_step, *toy_inputs(), wrap=jax.checkpoint))

    def test_vmap(self):
        args = jax.tree.map(lambda a: a[None], toy_inputs())
        assert has_kernels(compiled("v5e", toy_step, *args, wrap=jax.vmap))
