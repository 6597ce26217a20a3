"""`fused_scan` against ``lax.scan``: values and every gradient, on every execution.

Kernels run in interpret mode, the TPU's with memory full of NaN and detection of races.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, PartitionSpec

from pallas_kernels import fused_scan
from tests.pallas_kernels.toy_step import (
    outputs_and_gradients,
    reference_scan,
    toy_inputs,
    toy_step,
)
from tests.tolerances import FUSED_SCAN_BF16, FUSED_SCAN_F32, GRAD_BF16, assert_close

EXECUTIONS = {
    "xla": {"implementation": "xla"},
    "mosaic_tpu": {"implementation": "mosaic_tpu", "interpret": True},
    "triton": {"implementation": "triton", "interpret": True},
}

every_execution = pytest.mark.parametrize("execution", EXECUTIONS)


def scan(execution, step=toy_step, **options):
    return functools.partial(fused_scan, step, **EXECUTIONS[execution], **options)


@functools.cache
def reference(**shapes):
    """The reference's outputs and gradients, computed once for each shape."""
    run = outputs_and_gradients(functools.partial(reference_scan, toy_step))
    return run(*toy_inputs(**shapes))


def check(fused, tolerance=FUSED_SCAN_F32, **shapes):
    actual = outputs_and_gradients(fused)(*toy_inputs(**shapes))
    assert_close(actual, reference(**shapes), tolerance)


@every_execution
class TestEqualsScan:
    @pytest.mark.parametrize("chunks", [1, 2, 7])
    def test_number_of_chunks(self, execution, chunks):
        check(scan(execution), chunks=chunks)

    def test_one_group(self, execution):
        check(scan(execution), groups=1, per_group=1, chunks=2)

    @pytest.mark.parametrize("every", [1, 2, 7, 9])
    def test_checkpoint_every(self, execution, every):
        check(scan(execution, checkpoint_every=every))

    @pytest.mark.parametrize(("shared", "per_group"), [(3, 3), (1, 1), (1, 2)])
    def test_constants_shared_by_groups(self, execution, shared, per_group):
        groups = 3 if per_group != 2 else 4
        check(scan(execution), groups=groups, chunks=2, shared=shared, per_group=per_group)

    def test_bfloat16_inputs_with_a_float32_carry(self, execution):
        check(scan(execution), FUSED_SCAN_BF16, dtype=jnp.bfloat16)

    def test_gradients_of_inputs_keep_their_dtype(self, execution):
        args = toy_inputs(chunks=2, dtype=jnp.bfloat16)
        (carry, ys), gradients = outputs_and_gradients(scan(execution))(*args)
        assert jax.tree.map(lambda a, d: a.dtype == d.dtype, args, gradients) == jax.tree.map(
            lambda a: True, args
        )
        assert ys[0].dtype == jnp.bfloat16
        assert carry.matrix.dtype == jnp.float32


@functools.cache
def saved_in_bfloat16(execution, every):
    fused = scan(execution, saved_dtype=jnp.bfloat16, checkpoint_every=every)
    return outputs_and_gradients(fused)(*toy_inputs())


@pytest.mark.parametrize("every", [1, 2, 7])
class TestSavedDtype:
    @every_execution
    def test_outputs_are_exact_and_gradients_rounded(self, execution, every):
        outputs, gradients = saved_in_bfloat16(execution, every)
        expected_outputs, expected_gradients = reference()
        assert_close(outputs, expected_outputs, FUSED_SCAN_F32)
        assert_close(gradients, expected_gradients, GRAD_BF16)
        with pytest.raises(AssertionError):
            assert_close(gradients, expected_gradients, FUSED_SCAN_F32)

    @pytest.mark.parametrize("execution", ["mosaic_tpu", "triton"])
    def test_every_execution_rounds_alike(self, execution, every):
        _, expected = saved_in_bfloat16("xla", every)
        assert_close(saved_in_bfloat16(execution, every)[1], expected, FUSED_SCAN_F32)

    @every_execution
    def test_carries_of_its_own_dtype_are_exact(self, execution, every):
        check(scan(execution, saved_dtype=jnp.float32, checkpoint_every=every))


@every_execution
def test_residuals_are_in_the_saved_dtype(execution):
    """A carry of [3, 16, 16] and its sum in 4 segments."""
    fused = scan(execution, saved_dtype=jnp.bfloat16, checkpoint_every=2)
    _, pull = jax.eval_shape(functools.partial(jax.vjp, fused), *toy_inputs())
    saved = [a for a in jax.tree.leaves(pull) if a.shape[:2] == (3, 4)]
    assert [(a.shape, a.dtype) for a in saved] == [
        ((3, 4, 16, 16), jnp.bfloat16),
        ((3, 4, 1, 16), jnp.bfloat16),
    ]


class TestGroupsPerStep:
    @pytest.mark.parametrize("per_group", [1, 3])
    @pytest.mark.parametrize("every", [1, 2])
    def test_all_groups_in_one_step(self, every, per_group):
        fused = scan("mosaic_tpu", groups_per_step=3, checkpoint_every=every)
        check(fused, per_group=per_group)

    def test_constants_of_fewer_and_of_more_groups_than_a_step_has(self):
        fused = scan("mosaic_tpu", groups_per_step=2)
        check(fused, groups=4, chunks=2, shared=1, per_group=4)
        check(fused, groups=4, chunks=2, shared=2, per_group=1)


@every_execution
class TestPytrees:
    def test_no_consts_and_no_outputs(self, execution):
        carry, xs = jnp.ones((2, 8, 16)), jnp.ones((2, 3, 8, 16))
        fused = scan(execution, lambda _, carry, x: (carry + x, None))
        end, ys = fused(None, carry, xs)
        assert ys is None
        np.testing.assert_array_equal(end, 4 * carry)

    def test_no_carry(self, execution):
        xs = jnp.arange(6.0).reshape(2, 3, 1, 1) * jnp.ones((8, 16))
        carry, ys = scan(execution, lambda consts, carry, x: (carry, 2 * x))((), (), xs)
        assert carry == ()
        np.testing.assert_array_equal(ys, 2 * xs)


def hand_written_vjp(consts, carry, x, d_carry, d_y):
    """The VJP of ``carry * consts + x, carry``."""
    return (
        jnp.sum(d_carry * carry, axis=0, keepdims=True),
        d_carry * consts + d_y,
        d_carry,
    )


@every_execution
class TestStepVJP:
    @staticmethod
    def step(consts, carry, x):
        return carry * consts + x, carry

    @staticmethod
    def inputs():
        keys = jax.random.split(jax.random.key(0), 3)
        shapes = (1, 1, 16), (3, 8, 16), (3, 5, 8, 16)
        return [jax.random.normal(k, s, jnp.float32) for k, s in zip(keys, shapes, strict=True)]

    def test_given_equals_derived(self, execution):
        args = self.inputs()
        expected = outputs_and_gradients(functools.partial(reference_scan, self.step))(*args)
        for step_vjp in (None, hand_written_vjp):
            fused = scan(execution, self.step, step_vjp=step_vjp, checkpoint_every=2)
            assert_close(outputs_and_gradients(fused)(*args), expected, FUSED_SCAN_F32)

    def test_given_is_what_runs(self, execution):
        def doubled(*args):
            return jax.tree.map(lambda d: 2 * d, hand_written_vjp(*args))

        args = [a[:, :1] if a.ndim == 4 else a for a in self.inputs()]
        _, once = outputs_and_gradients(scan(execution, self.step))(*args)
        _, twice = outputs_and_gradients(scan(execution, self.step, step_vjp=doubled))(*args)
        assert_close(twice, jax.tree.map(lambda d: 2 * d, once), FUSED_SCAN_F32)

    def test_given_in_another_dtype_is_cast(self, execution):
        def in_float64(*args):
            return jax.tree.map(lambda d: d.astype(jnp.float64), hand_written_vjp(*args))

        args = self.inputs()
        _, gradients = outputs_and_gradients(scan(execution, self.step, step_vjp=in_float64))(*args)
        assert {d.dtype for d in gradients} == {jnp.dtype(jnp.float32)}

    def test_wrong_shape_is_refused(self, execution):
        def wrong(*args):
            return (jnp.zeros((8, 16)), *hand_written_vjp(*args)[1:])

        with pytest.raises(ValueError, match="d_consts must have"):
            outputs_and_gradients(scan(execution, self.step, step_vjp=wrong))(*self.inputs())


@every_execution
class TestTransformations:
    def test_second_call_of_the_vjp(self, execution):
        args = toy_inputs(chunks=2)
        outputs, pull = jax.vjp(scan(execution), *args)
        cotangents = jax.tree.map(jnp.ones_like, outputs)
        assert_close(pull(cotangents), pull(cotangents), 0.0)

    @pytest.mark.parametrize("batched", range(3), ids=["consts", "carry", "xs"])
    def test_vmap(self, execution, batched):
        args = list(toy_inputs(groups=4, chunks=2, per_group=2))
        args[batched] = jax.tree.map(lambda a: jnp.stack([a, 0.5 * a]), args[batched])
        axes = [0 if i == batched else None for i in range(3)]
        expected = outputs_and_gradients(functools.partial(reference_scan, toy_step))
        actual = outputs_and_gradients(scan(execution))
        assert_close(jax.vmap(actual, axes)(*args), jax.vmap(expected, axes)(*args), FUSED_SCAN_F32)

    def test_shard_map_over_groups(self, execution):
        devices = jax.devices()[:2]
        mesh = jax.make_mesh(
            (len(devices),), ("data",), axis_types=(AxisType.Auto,), devices=devices
        )
        groups, everywhere = PartitionSpec("data"), PartitionSpec()
        fused = jax.shard_map(
            scan(execution),
            mesh=mesh,
            in_specs=(everywhere, groups, groups),
            out_specs=(groups, groups),
            # Pallas's interpreter for GPUs loses what varies over the mesh; the kernels do not.
            check_vma=execution != "triton",
        )
        check(fused, groups=2, chunks=2, per_group=1)


class TestCheckpoint:
    # The TPU's interpret mode has effects, which jax.checkpoint refuses; test_tpu_compile.py compiles its kernels.
    @pytest.mark.parametrize("execution", ["xla", "triton"])
    def test_values(self, execution):
        check(jax.checkpoint(scan(execution)), chunks=2)


class TestDispatch:
    def test_default_on_this_host_is_xla(self):
        args = toy_inputs(chunks=2)
        default = jax.jit(functools.partial(fused_scan, toy_step)).lower(*args)
        assert "custom_call" not in default.as_text()
        check(functools.partial(fused_scan, toy_step), chunks=2)
