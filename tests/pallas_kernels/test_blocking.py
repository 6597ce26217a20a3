"""What fits a chip, what is chosen for it, and what a refusal says."""

import dataclasses
import functools
import logging

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import AbstractDevice, AbstractMesh, AxisType

from pallas_kernels import fused_scan
from pallas_kernels.fused_scan import blocking
from pallas_kernels.fused_scan.blocking import CHIPS, Chip, StepCost
from pallas_kernels.fused_scan.vjp import Problem, UnsupportedError, derived_step_vjp
from tests.pallas_kernels.memory_step import memory_shapes, memory_step
from tests.pallas_kernels.toy_step import outputs_and_gradients, toy_inputs, toy_step
from tests.pallas_kernels.tpu_compile import compile_for
from titans_jax.memory.networks import MLPNetwork

V4, V5E, V5P = CHIPS[:3]


def target(kind, cores=1):
    """A context in which computations are for an absent TPU."""
    device = AbstractDevice(device_kind=kind, num_cores=cores, platform="tpu")
    mesh = AbstractMesh((1,), ("chip",), axis_types=(AxisType.Auto,), abstract_device=device)
    return jax.sharding.use_abstract_mesh(mesh)


def sum_step(consts, carry, x):
    return carry + x, x


def problem_of(rows, columns, groups=4, chunks=8, sharers=(), every=1):
    """A running sum of ``[rows, columns]`` matrices."""
    matrix = jax.ShapeDtypeStruct((rows, columns), jnp.float32)

    def step(consts, carry, x):
        return (carry[0] + x[0],), (x[0],)

    return Problem(
        step=step,
        step_vjp=derived_step_vjp(step),
        groups=groups,
        chunks=chunks,
        checkpoint_every=every,
        consts=(matrix,) * len(sharers),
        carry=(matrix,),
        x=(matrix,),
        y=(matrix,),
        sharers=sharers,
    )


NO_COST = StepCost(0, 0, 0, 0)


class TestTargetChip:
    def test_mesh_of_an_absent_tpu(self):
        with target("TPU v5", cores=2):
            chip, known = blocking.target_chip()
        assert (chip.name, chip.cores, known) == ("v5p", 2, True)

    def test_unknown_is_v5e(self):
        assert blocking.target_chip() == (V5E, False)


class TestBudget:
    def test_tiles_are_padded(self):
        # One tile of [8, 128] per leaf and group: the saved carry, x and y (backward d_x too) doubled, and scratch.
        forward, backward = blocking.vmem_bytes(problem_of(1, 5), NO_COST, groups=2)
        tile = 8 * 128 * 4
        assert forward == 2 * (3 + 4) * tile
        assert backward == 2 * (3 + 6) * tile

    def test_segments_and_constants(self):
        problem = problem_of(8, 128, sharers=(1, 4), every=3)
        forward, backward = blocking.vmem_bytes(problem, NO_COST, groups=2)
        tile = 8 * 128 * 4
        constants = 2 * (1 + 2) * tile
        assert forward == constants + 2 * (3 + 4) * tile
        assert backward == constants + 2 * (2 + 3 + 6 * 3 + 2 * 2) * tile

    def test_16_bit_leaves_have_tiles_of_16_sublanes(self):
        problem = problem_of(8, 128)
        narrow = tuple(jax.ShapeDtypeStruct(s.shape, jnp.bfloat16) for s in problem.x)
        same = dataclasses.replace(problem, x=narrow)
        assert blocking.vmem_bytes(same, NO_COST, 1) == blocking.vmem_bytes(problem, NO_COST, 1)

    def test_cost_of_a_step(self):
        matrix = jax.ShapeDtypeStruct((128, 128), jnp.float32)

        def step(consts, carry, x):
            return carry, (jnp.tanh(jax.nn.silu(x[0]) @ carry[0]),)

        problem = dataclasses.replace(
            problem_of(128, 128), step=step, step_vjp=derived_step_vjp(step)
        )
        cost = blocking.step_cost(problem)
        assert cost.flops == 2 * 128**3
        assert cost.vjp_flops == 3 * cost.flops
        values = matrix.size * 4
        assert 2 * values <= cost.temporaries <= 4 * values
        assert cost.vjp_temporaries > cost.temporaries

    def test_compiler_is_content_with_the_budget_and_not_with_less(self, monkeypatch):
        network = MLPNetwork("mlp", 2, 2)
        args = (), *memory_shapes(network, groups=2, chunks=2, length=64, head_dim=64)
        fused = functools.partial(
            fused_scan, memory_step(network), implementation="mosaic_tpu", groups_per_step=1
        )
        monkeypatch.setattr(blocking, "DEFAULT_VMEM_LIMIT", 0)
        compile_for("v5e", outputs_and_gradients(fused), *args)
        budget = blocking.vmem_bytes
        monkeypatch.setattr(
            blocking, "vmem_bytes", lambda *a: tuple(size // 4 for size in budget(*a))
        )
        with pytest.raises(jax.errors.JaxRuntimeError, match="vmem"):
            compile_for("v5e", outputs_and_gradients(fused), *args)


class TestChoices:
    #: Both resources at one unit per second: times are flops / UTILISATION and bytes.
    CHIP = Chip("unit", (), 2**30, 1.0, 1.0)

    def test_bound_by_compute_saves_every_chunk(self):
        cost = StepCost(10**9, 3 * 10**9, 0, 0)
        assert blocking.checkpoint_choices(problem_of(8, 128), cost, self.CHIP)[0] == 1

    def test_bound_by_memory_saves_less_often(self):
        assert blocking.checkpoint_choices(problem_of(8, 128), NO_COST, self.CHIP)[0] == 8

    def test_no_more_is_saved_than_the_budget(self, monkeypatch):
        monkeypatch.setattr(blocking, "SAVED_BYTES_PER_FEATURE", 1)
        cost = StepCost(10**9, 3 * 10**9, 0, 0)  # a carry has 4 bytes for each feature
        choices = blocking.checkpoint_choices(problem_of(8, 128), cost, self.CHIP)
        assert choices == [4, 8, 2, 1]

    def test_two_groups_per_step_where_they_fit(self):
        cut = functools.partial(blocking.cut, cost=NO_COST, groups_per_step=None)
        assert cut(problem_of(512, 512), chip=V5E).groups_per_step == 2
        assert cut(problem_of(512, 512), chip=V4).groups_per_step == 1
        assert cut(problem_of(8, 128, groups=3), chip=V5E).groups_per_step == 1

    def test_every_core_has_a_step(self):
        cut = functools.partial(blocking.cut, cost=NO_COST, groups_per_step=None)
        two_cores = dataclasses.replace(V5P, cores=2)
        assert cut(problem_of(8, 128, groups=2), chip=two_cores).groups_per_step == 1

    def test_limit_is_the_need_between_the_default_and_the_chip(self):
        cut = functools.partial(blocking.cut, cost=NO_COST, chip=V5E, groups_per_step=None)
        assert cut(problem_of(8, 128)).vmem_limit_bytes == blocking.DEFAULT_VMEM_LIMIT
        large = problem_of(1024, 512)
        needed = max(blocking.vmem_bytes(large, NO_COST, 2))
        assert cut(large).vmem_limit_bytes == needed > blocking.DEFAULT_VMEM_LIMIT


class TestRefusal:
    @staticmethod
    def too_large():
        return (
            jax.ShapeDtypeStruct((2, 1024, 1024), jnp.float32),
            jax.ShapeDtypeStruct((2, 3, 1024, 1024), jnp.float32),
        )

    def test_named_kernel_says_what_is_needed_what_there_is_and_what_to_do(self):
        fused = functools.partial(fused_scan, sum_step, (), implementation="mosaic_tpu")
        message = (
            r"needs \d+\.\d MiB of VMEM forward and \d+\.\d MiB backward .*but v4 has 15\.0 MiB"
            r".*smaller.*implementation='xla'"
        )
        with target("TPU v4"), pytest.raises(UnsupportedError, match=message):
            jax.eval_shape(fused, *self.too_large())

    def test_default_falls_back_with_a_warning(self, caplog):
        fused = functools.partial(fused_scan, sum_step, ())
        with target("TPU v4"), caplog.at_level(logging.INFO):
            jaxpr = jax.make_jaxpr(fused)(*self.too_large())
        assert "pallas_call" not in str(jaxpr)
        [record] = caplog.records
        assert record.levelno == logging.WARNING
        assert "XLA runs instead: fused_scan needs" in record.message

    def test_smaller_segments_come_before_a_refusal(self):
        # A budget that prefers long segments, on a chip where only short ones fit.
        problems = [problem_of(512, 512, every=every) for every in (8, 1)]
        cut = functools.partial(blocking.cut, cost=NO_COST, chip=V4, groups_per_step=None)
        with pytest.raises(UnsupportedError):
            cut(problems[0])
        assert cut(problems[1]).groups_per_step == 1

    def test_compiles_after_it_falls_back(self):
        shapes = self.too_large()
        module = compile_for("v4", functools.partial(fused_scan, sum_step, ()), *shapes).as_text()
        assert "tpu_custom_call" not in module

    @pytest.mark.parametrize("groups_per_step", [2, 4])
    def test_groups_per_step_that_do_not_divide(self, groups_per_step):
        args = toy_inputs(groups=6, shared=1, per_group=3)
        with pytest.raises(ValueError, match="groups_per_step must divide G = 6"):
            fused_scan(
                toy_step, *args, implementation="mosaic_tpu", groups_per_step=groups_per_step
            )
