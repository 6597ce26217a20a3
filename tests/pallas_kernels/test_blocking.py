"""What fits a chip, what is chosen for it, and what a refusal says."""

import dataclasses
import functools
import logging

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import AbstractDevice, AbstractMesh, AxisType

from pallas_kernels import fused_scan
from pallas_kernels.chips import CHIPS, Chip
from pallas_kernels.fused_scan import blocking
from pallas_kernels.fused_scan.blocking import StepCost
from pallas_kernels.fused_scan.vjp import Problem, UnsupportedError, derived_step_vjp
from tests.pallas_kernels.memory_step import memory_shapes, memory_step
from tests.pallas_kernels.toy_step import outputs_and_gradients, toy_inputs, toy_step
from tests.pallas_kernels.tpu_compile import compile_for
from titans_jax.memory.networks import MLPNetwork

V4, V5E, V5P = (CHIPS[name] for name in ("v4", "v5e", "v5p"))


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


NO_COST = StepCost(0, 0, 0, 0, 0)


def budget(problem, direction, groups=1):
    return blocking.vmem_bytes(problem, NO_COST, groups, direction)


class TestTargetChip:
    def test_mesh_of_an_absent_tpu(self):
        with target("TPU v5", cores=2):
            chip, known = blocking.target_chip(by_name=False)
        assert (chip.name, chip.device_cores, known) == ("v5p", 2, True)

    def test_unknown_has_the_least_vmem_unless_the_kernel_was_asked_for(self):
        least, most = (blocking.target_chip(by_name=by_name) for by_name in (False, True))
        assert least == (V4, False)
        assert (most[0].vmem, most[1]) == (max(chip.vmem for chip in CHIPS.values()), False)


class TestBudget:
    TILE = 8 * 128 * 4

    def test_tiles_are_padded(self):
        # One tile per leaf and group: the saved carry, x and y are blocks, doubled, and the carry is scratch.
        problem = problem_of(1, 5)
        assert budget(problem, "forward", groups=2) == 2 * (2 * 3 + 1) * self.TILE
        assert budget(problem, "backward", groups=2) == 2 * (2 * 4 + 1) * self.TILE

    def test_segments_and_constants(self):
        problem = problem_of(8, 128, sharers=(1, 4), every=3)
        constants = 2 * (1 + 2) * self.TILE
        assert budget(problem, "forward", groups=2) == constants + 2 * (2 * 3 + 1) * self.TILE
        backward = constants + 2 * (2 * (1 + 3 * 3 + 2) + 3) * self.TILE
        assert budget(problem, "backward", groups=2) == backward

    def test_16_bit_leaves_have_tiles_of_16_sublanes(self):
        problem = problem_of(8, 128)
        narrow = tuple(jax.ShapeDtypeStruct(s.shape, jnp.bfloat16) for s in problem.x)
        same = dataclasses.replace(problem, x=narrow)
        assert budget(same, "forward") == budget(problem, "forward")

    def test_carries_saved_in_16_bits_have_half_the_block_and_are_widened(self):
        problem = problem_of(64, 128, every=2)
        narrow = dataclasses.replace(problem, saved_dtype=jnp.dtype(jnp.bfloat16))
        carry = 8 * self.TILE
        assert budget(narrow, "forward") == budget(problem, "forward") - 2 * carry // 2
        assert budget(narrow, "backward") == budget(problem, "backward") - 2 * carry // 2 + carry

    def test_every_recomputed_chunk_has_temporaries_of_its_own(self):
        cost = StepCost(0, 0, 0, temporaries=1000, vjp_temporaries=5000)
        problem = problem_of(8, 128, every=3)
        backward = blocking.vmem_bytes(problem, cost, 1, "backward")
        assert backward == budget(problem, "backward") + 5000 + 2 * 1000

    def test_cost_of_a_step(self):
        matrix = jax.ShapeDtypeStruct((128, 128), jnp.float32)

        def step(consts, carry, x):
            y = jnp.tanh(jax.nn.silu(x[0]) @ carry[0])  # the next carry needs neither y nor silu
            return (jnp.exp(carry[0] @ x[0]),), (y,)

        problem = dataclasses.replace(
            problem_of(128, 128), step=step, step_vjp=derived_step_vjp(step)
        )
        cost = blocking.step_cost(problem)
        assert cost.flops == 2 * cost.carry_flops == 4 * 128**3
        assert cost.vjp_flops == 3 * cost.flops
        values = matrix.size * 4
        assert 2 * values <= cost.temporaries <= 4 * values
        assert cost.vjp_temporaries > cost.temporaries

    def test_compiler_is_content_with_the_budget_and_not_with_less(self, monkeypatch):
        network = MLPNetwork("mlp", 2, 2)
        args = memory_shapes(network, groups=2, chunks=2, length=64, head_dim=64)
        fused = functools.partial(
            fused_scan, memory_step, implementation="mosaic_tpu", groups_per_step=1
        )
        monkeypatch.setattr(blocking, "DEFAULT_VMEM_LIMIT", 0)
        compile_for("v5e", outputs_and_gradients(fused), *args)
        whole = blocking.vmem_bytes
        monkeypatch.setattr(blocking, "vmem_bytes", lambda *a: whole(*a) // 4)
        with pytest.raises(jax.errors.JaxRuntimeError, match="vmem"):
            compile_for("v5e", outputs_and_gradients(fused), *args)


class TestChoices:
    #: Both resources at one unit per second: times are flops / UTILISATION and bytes.
    CHIP = Chip("unit", 1, 1, 1, 128, 1, 1.0, 1.0, 2**30, (), 2**30, 1.0, 1, 1.0, "")

    def test_bound_by_compute_saves_every_chunk(self):
        cost = StepCost(10**9, 5 * 10**8, 3 * 10**9, 0, 0)
        assert blocking.checkpoint_choices(problem_of(8, 128), cost, self.CHIP)[0] == 1

    def test_bound_by_memory_saves_less_often(self):
        assert blocking.checkpoint_choices(problem_of(8, 128), NO_COST, self.CHIP)[0] == 8

    def test_no_more_is_saved_than_the_budget(self, monkeypatch):
        monkeypatch.setattr(blocking, "SAVED_BYTES_PER_TOKEN", 128)
        cost = StepCost(10**9, 5 * 10**8, 3 * 10**9, 0, 0)  # a row of the carry has 512 bytes
        choices = blocking.checkpoint_choices(problem_of(8, 128), cost, self.CHIP)
        assert choices == [4, 8, 2, 1]

    def test_less_traffic_is_preferred_where_recomputing_is_cheap(self):
        # Forward takes 1 second at every chunk, and its traffic 0.62 or, of every second carry, 0.52.
        flops = int(blocking.UTILISATION * 10**6)
        problem = problem_of(8, 128)
        traffic = blocking.HBM_SHARE * 10**6 / 2.5 / (8 * 128 * 4)
        chip = dataclasses.replace(self.CHIP, hbm=1 / traffic)
        for carry_flops, first in ((flops // 2, 2), (2 * flops, 1)):
            cost = StepCost(flops, carry_flops, 3 * flops, 0, 0)
            assert blocking.checkpoint_choices(problem, cost, chip)[0] == first

    def test_presets_on_every_chip(self):
        """Every chunk's carry is saved, unless it is float32's and the chip v6e, whose HBM is slow for its units."""
        network = MLPNetwork("mlp", 2, 2)
        args = memory_shapes(network, groups=8, chunks=16, length=256, head_dim=256)
        fused = functools.partial(
            fused_scan, memory_step, implementation="mosaic_tpu", groups_per_step=1
        )
        found = {}
        for name in ("v5e", "v5p", "v6e", "TPU7x"):
            for dtype, letter in ((jnp.float32, "f32"), (jnp.bfloat16, "bf16")):
                run = functools.partial(fused, saved_dtype=dtype)
                with target(CHIPS[name].kinds[0], CHIPS[name].device_cores):
                    jaxpr = str(jax.make_jaxpr(jax.vjp, 0)(run, *args))
                [segments] = {n for n in (16, 8, 4, 2) if f"{letter}[8,{n},256,512]" in jaxpr}
                found[name, letter] = 16 // segments
        assert found == {key: 2 if key == ("v6e", "f32") else 1 for key in found}

    def test_two_groups_forward_and_one_backward_where_they_fit(self):
        assert self.groups(problem_of(512, 512), V5E) == [2, 1]
        assert self.groups(problem_of(768, 512), V4) == [1, 1]
        assert self.groups(problem_of(8, 128, groups=3), V5E) == [1, 1]

    def test_every_core_has_a_step(self):
        two_cores = dataclasses.replace(V5P, device_cores=2)
        assert self.groups(problem_of(8, 128, groups=2), two_cores) == [1, 1]

    @staticmethod
    def groups(problem, chip):
        cut = functools.partial(blocking.cut, cost=NO_COST, chip=chip, groups_per_step=None)
        return [cut(problem, d).groups_per_step for d in ("forward", "backward")]

    def test_limit_is_the_need_between_the_default_and_the_chip(self):
        cut = functools.partial(blocking.cut, cost=NO_COST, chip=V5E, groups_per_step=None)
        assert cut(problem_of(8, 128), "forward").vmem_limit_bytes == blocking.DEFAULT_VMEM_LIMIT
        large = problem_of(1024, 1024)
        needed = budget(large, "forward", groups=2)
        assert cut(large, "forward").vmem_limit_bytes == needed > blocking.DEFAULT_VMEM_LIMIT


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
            r"forward kernel needs \d+ bytes of VMEM .*v4 has 15728640: make the carry \(4194304 bytes"
            r".*smaller, or use implementation='xla'"
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
        assert "XLA runs instead: fused_scan's forward kernel needs" in record.message

    def test_smaller_segments_come_before_a_refusal(self):
        # Bound by memory, long segments are the fastest; a step of no work at all is.
        carry, xs = (jax.ShapeDtypeStruct((4, *n, 512, 512), jnp.float32) for n in ((), (8,)))
        fused = functools.partial(fused_scan, sum_step, (), implementation="mosaic_tpu")
        with target("TPU v5e"):
            assert "f32[4,1,512,512]" in str(jax.make_jaxpr(jax.vjp, 0)(fused, carry, xs))
        with target("TPU v4"):
            assert "f32[4,1,512,512]" not in str(jax.make_jaxpr(jax.vjp, 0)(fused, carry, xs))

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
