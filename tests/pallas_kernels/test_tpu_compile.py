"""The TPU's kernels compile for every chip, none of which is here."""

import functools

import jax
import pytest

from pallas_kernels import fused_scan
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

    def test_deep_memory(self, chip):
        network = MLPNetwork("mlp", 2, 2)
        shapes = memory_shapes(network, groups=2, chunks=2, length=128, head_dim=128)
        assert has_kernels(compiled(chip, memory_step(network), (), *shapes))


class TestTransformations:
    def test_checkpoint(self):
        assert has_kernels(compiled("v5e", toy_step, *toy_inputs(), wrap=jax.checkpoint))

    def test_vmap(self):
        args = jax.tree.map(lambda a: a[None], toy_inputs())
        assert has_kernels(compiled("v5e", toy_step, *args, wrap=jax.vmap))
