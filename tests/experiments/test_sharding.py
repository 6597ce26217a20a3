"""Where parameters and batches lie, what is refused, and that a training step on eight devices is that on one."""

import dataclasses
import json
import subprocess
import sys

import jax
import pytest
from jax.sharding import AbstractMesh, PartitionSpec

from experiments.training.config import DataConfig, MeshConfig, TrainConfig
from experiments.training.mesh import AXES, check_layout, mesh_shape
from experiments.training.optimizer import path_name
from experiments.training.sharding import parameter_spec
from experiments.training.step import split_model
from tests.experiments.sharded_program import MESHES
from tests.tolerances import OUTPUT_F32
from titans_jax import MemoryConfig, TitansConfig, preset
from titans_jax.config import EXPANSIONS, HYBRIDS

VARIANTS = ("mac", "mag", "mal", "lmm", "transformer")


def abstract(data=1, fsdp=1, sequence=1, tensor=1):
    return AbstractMesh((data, fsdp, sequence, tensor), AXES)


class TestRules:
    @pytest.mark.parametrize("variant", VARIANTS)
    def test_every_matrix_is_shared_out_both_ways(self, variant):
        mesh = abstract(fsdp=4, tensor=2)
        _, shapes = split_model(preset("760m", variant))
        for path, x in jax.tree_util.tree_flatten_with_path(shapes)[0]:
            name = path_name(path)
            axes = {axis for axis in parameter_spec(name, x.shape, mesh) if axis}
            if name.endswith(("linear/kernel", "up/kernel", "down/kernel", "output/kernel")):
                assert axes == {"fsdp", "tensor"}, name
            if "initial_weights" in name:
                assert parameter_spec(name, x.shape, mesh) == PartitionSpec(
                    None, "tensor", "fsdp", None
                )

    @pytest.mark.parametrize("variant", [*EXPANSIONS, *HYBRIDS])
    def test_baselines_are_shared_out(self, variant):
        mesh = abstract(fsdp=2, tensor=2)
        config = preset("170m", variant)
        biased = dataclasses.replace(config.recurrence, step_bias=-5.0)  # a parameter more
        _, shapes = split_model(dataclasses.replace(config, recurrence=biased))
        for path, x in jax.tree_util.tree_flatten_with_path(shapes)[0]:
            name = path_name(path)  # raises where no rule is for it
            axes = {axis for axis in parameter_spec(name, x.shape, mesh) if axis}
            if name.endswith(("linear/kernel", "output/kernel", "step_kernel", "beta_kernel")):
                assert axes == {"fsdp", "tensor"}, name

    def test_moments_lie_where_their_parameters_do(self):
        mesh, shape = abstract(fsdp=2), (3, 8, 16)
        name = "layers/feed_forward/up/kernel"
        assert parameter_spec(f"1/0/mu/{name}", shape, mesh) == parameter_spec(name, shape, mesh)

    def test_what_an_axis_does_not_divide_stays_whole(self):
        spec = parameter_spec("embedding", (257, 64), abstract(fsdp=2, tensor=2))
        assert spec == PartitionSpec(None, "fsdp")

    def test_unknown_parameter_is_refused(self):
        with pytest.raises(ValueError, match=r"layers/new/thing.*no rule"):
            parameter_spec("layers/new/thing", (2, 4), abstract())


class TestMesh:
    def test_zero_takes_what_is_left(self):
        assert mesh_shape(MeshConfig(fsdp=2, tensor=2), 16) == (4, 2, 1, 2)
        assert mesh_shape(MeshConfig(data=2, fsdp=0), 16, slices=2) == (2, 8, 1, 1)

    @pytest.mark.parametrize(
        ("config", "devices", "slices", "message"),
        [
            (MeshConfig(fsdp=3), 8, 1, r"does not divide 8 devices"),
            (MeshConfig(data=2, fsdp=2), 8, 1, r"2 \* 2 \* 1 \* 1 must multiply to .* 8"),
            (MeshConfig(data=1, fsdp=0), 8, 2, r"mesh.data=1: must be a multiple of the 2 slices"),
        ],
    )
    def test_sizes_that_do_not_fit(self, config, devices, slices, message):
        with pytest.raises(ValueError, match=message):
            mesh_shape(config, devices, slices)

    def test_only_one_size_may_be_left_open(self):
        with pytest.raises(ValueError, match="data must be above 0 with fsdp = 0"):
            TrainConfig(mesh=MeshConfig(data=0, fsdp=0))


class TestRefusals:
    CONFIG = TrainConfig(
        batch_size=8,
        data=DataConfig(sequence_length=64),
        model=TitansConfig(variant="lmm", dim=64, memory=MemoryConfig(num_heads=4, chunk=16)),
    )

    def refused(self, mesh, message, **changes):
        config = dataclasses.replace(self.CONFIG, **changes)
        with pytest.raises(ValueError, match=message):
            check_layout(config, mesh)

    def test_heads(self):
        self.refused(abstract(tensor=3), r"memory.num_heads=4: must be a multiple of .*tensor=3")
        model = TitansConfig(variant="mag", dim=64, num_heads=2, memory=MemoryConfig(num_heads=4))
        self.refused(abstract(tensor=4), r"model.num_heads=2: must be a multiple", model=model)

    def test_batch(self):
        self.refused(abstract(data=2, fsdp=8), r"= 8: must be a multiple of data \* fsdp = 16")

    def test_tokens(self):
        check_layout(self.CONFIG, abstract(sequence=4))
        self.refused(abstract(sequence=8), r"sequence_length=64: must be a multiple of 128")

    def test_full_attention(self):
        model = TitansConfig(variant="transformer", window=None)
        self.refused(abstract(sequence=2), "full attention", model=model)


@pytest.mark.slow
@pytest.mark.parametrize("variant", ["mac", "lmm", "transformer", "mamba2"])
def test_eight_devices_train_as_one(variant):
    """Every mesh for the variant that compiles fastest; for each the one that shares out everything but the batch."""
    meshes = list(MESHES) if variant == "transformer" else ["fsdp, sequence, tensor"]
    process = subprocess.run(
        [sys.executable, "-m", "tests.experiments.sharded_program", variant, *meshes],
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert process.returncode == 0, process.stderr[-3000:]
    results = json.loads(process.stdout.splitlines()[-1])
    _, _, whole = results.pop("one device")
    assert list(results) == meshes
    for name, (loss, params, held) in results.items():
        assert loss <= OUTPUT_F32, name
        assert params <= OUTPUT_F32, name
        mesh = MESHES[name]
        # Norms, gates' biases and the like are a few hundred bytes of each device.
        assert held <= 1.2 * whole / (mesh.fsdp * mesh.tensor) + 4096, name
