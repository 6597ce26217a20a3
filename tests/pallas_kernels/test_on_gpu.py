"""The Triton kernels compiled and run on a GPU: values and every gradient against ``lax.scan`` there.

Matmuls of both are in full float32: by default a GPU rounds their operands to 10 bits of mantissa.
"""

import functools

import jax
import jax.numpy as jnp
import pytest

from pallas_kernels import fused_scan
from tests.on_gpu import needs_gpu
from tests.pallas_kernels.memory_step import memory_inputs, memory_step
from tests.pallas_kernels.toy_step import (
    outputs_and_gradients,
    reference_scan,
    toy_inputs,
    toy_step,
)
from tests.tolerances import FUSED_SCAN_BF16, GRAD_F32, OUTPUT_F32, assert_close
from titans_jax.memory.networks import MLPNetwork

pytestmark = needs_gpu


@pytest.fixture(autouse=True)
def _full_float32():
    with jax.default_matmul_precision("highest"):
        yield


def compare(step, args, output_tolerance=OUTPUT_F32, gradient_tolerance=GRAD_F32, **options):
    fused = functools.partial(fused_scan, step, implementation="triton", **options)
    outputs, gradients = outputs_and_gradients(fused)(*args)
    expected = outputs_and_gradients(functools.partial(reference_scan, step))(*args)
    assert_close(outputs, expected[0], output_tolerance)
    assert_close(gradients, expected[1], gradient_tolerance)


@pytest.mark.parametrize("every", [1, 2])
@pytest.mark.parametrize("chunks", [1, 7])
def test_toy(chunks, every):
    compare(toy_step, toy_inputs(chunks=chunks), checkpoint_every=every)


def test_constants_shared_by_groups():
    compare(toy_step, toy_inputs(groups=4, shared=1, per_group=2))


def test_bfloat16_inputs_with_a_float32_carry():
    args = toy_inputs(dtype=jnp.bfloat16)
    compare(toy_step, args, FUSED_SCAN_BF16, FUSED_SCAN_BF16)


def test_memory_with_masks_resets_and_an_anchor():
    network = MLPNetwork("mlp", 1, 1)
    args = memory_inputs(network, groups=4, chunks=5, length=16, head_dim=32)
    compare(memory_step, args)
