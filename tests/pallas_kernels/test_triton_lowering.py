"""The GPU's kernels lower for CUDA on a host without a GPU, and what cannot is refused."""

import functools

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import AbstractDevice, AbstractMesh, use_abstract_mesh

from pallas_kernels import fused_scan
from pallas_kernels.fused_scan.vjp import UnsupportedError
from tests.pallas_kernels.memory_step import memory_inputs, memory_shapes, memory_step
from tests.pallas_kernels.toy_step import (
    outputs_and_gradients,
    reference_scan,
    toy_inputs,
    toy_step,
)
from tests.tolerances import FUSED_SCAN_F32, assert_close
from titans_jax.memory.networks import MLPNetwork

#: A GPU that is not there, for which Triton is told to lower: from jax 0.11 on it assumes none.
ABSENT_GPU = AbstractDevice(device_kind="NVIDIA H100", num_cores=None, platform="cuda")


def lowered(step, *args, **options):
    run = outputs_and_gradients(functools.partial(fused_scan, step, **options))
    with use_abstract_mesh(AbstractMesh((), (), abstract_device=ABSENT_GPU)):
        return run.trace(*args).lower(lowering_platforms=("cuda",)).as_text()


def kernels(module):
    return module.count("custom_call @__gpu$xla.gpu.triton")


class TestLowering:
    @pytest.mark.parametrize("every", [1, 2])
    def test_toy(self, every):
        args = toy_inputs(per_group=3)
        module = lowered(toy_step, *args, implementation="triton", checkpoint_every=every)
        assert kernels(module) == 2

    def test_it_runs_only_by_name(self):
        assert not kernels(lowered(toy_step, *toy_inputs()))

    @pytest.mark.parametrize("length", [16, 64])
    @pytest.mark.parametrize(("depth", "head_dim"), [(1, 32), (2, 32), (1, 64), (2, 64)])
    def test_deep_memory(self, depth, head_dim, length):
        network = MLPNetwork("mlp", depth, 1)
        args = memory_shapes(network, groups=2, chunks=9, length=length, head_dim=head_dim)
        assert kernels(lowered(memory_step, *args, implementation="triton")) == 2

    def test_masks_resets_and_an_anchor(self):
        network = MLPNetwork("mlp", 2, 1)
        args = memory_shapes(network, 2, 3, length=16, head_dim=32, flags=True)
        assert kernels(lowered(memory_step, *args, implementation="triton")) == 2

    def test_segments_are_those_that_fit(self):
        def step(consts, carry, x):
            return carry + x, x

        # Bound by memory it would save every eighth carry, of which registers cannot hold as many.
        carry, xs = jnp.ones((2, 64, 128), jnp.float32), jnp.ones((2, 9, 64, 128), jnp.float32)
        module = lowered(step, (), carry, xs, implementation="triton")
        assert kernels(module) == 2


class TestDeepMemory:
    def test_equals_scan_in_interpret_mode(self):
        network = MLPNetwork("mlp", 2, 2)
        args = memory_inputs(network, groups=2, chunks=3, length=16, head_dim=16)
        step = memory_step
        fused = functools.partial(fused_scan, step, implementation="triton", interpret=True)
        actual = outputs_and_gradients(fused)(*args)
        expected = outputs_and_gradients(functools.partial(reference_scan, step))(*args)
        assert_close(actual, expected, FUSED_SCAN_F32)


def run(step, rows=16, columns=16, **options):
    carry, xs = jnp.ones((2, rows, columns)), jnp.ones((2, 2, rows, columns))
    return jax.eval_shape(functools.partial(fused_scan, step, (), **options), carry, xs)


class TestRefusal:
    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"rows": 24}, r"shape \(24, 16\): every side must be a power of two"),
            ({"rows": 8}, "a matmul of shapes .* has a side below 16"),
            ({"rows": 256, "columns": 256}, "holds 3 copies of the carry"),
        ],
    )
    def test_shapes(self, options, message):
        def step(consts, carry, x):
            return carry + x, jax.lax.dot_general(carry, x, (((1,), (1,)), ((), ())))

        with pytest.raises(UnsupportedError, match=message):
            run(step, implementation="triton", **options)

    def test_matmul_of_two_dtypes(self):
        def step(consts, carry, x):
            narrow = x.astype(jnp.bfloat16)
            return carry + x, jnp.dot(narrow, carry, preferred_element_type=jnp.float32)

        with pytest.raises(UnsupportedError, match=r"operands of bfloat16 and float\d+: cast"):
            run(step, implementation="triton")

    def test_slices(self):
        with pytest.raises(UnsupportedError, match="the step uses slice, which Triton lacks"):
            run(lambda consts, carry, x: (carry + x, x[:8]), implementation="triton")
