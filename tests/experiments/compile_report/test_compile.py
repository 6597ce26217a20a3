"""A training step is compiled for TPUs that are absent, and the report has what users and scripts ask for."""

import dataclasses
import json

import pytest

from experiments.compile_report.compile import compile_step, topology_devices
from experiments.compile_report.report import markdown, row
from experiments.training.config import DataConfig, MeshConfig, TrainConfig
from pallas_kernels.chips import chip_of
from tests.pallas_kernels import tpu_compile  # noqa: F401  # tells libtpu, before it loads, not to look for a TPU
from titans_jax import MemoryConfig, TitansConfig

CONFIG = TrainConfig(
    batch_size=4,
    data=DataConfig(sequence_length=512),
    mesh=MeshConfig(data=1, fsdp=0),
    model=TitansConfig(
        variant="lmm", vocab_size=512, dim=256, num_layers=2, feed_forward=256, dtype="bfloat16",
        memory=MemoryConfig(num_heads=1, chunk=256),
    ),
)  # fmt: skip


@pytest.mark.slow
def test_step_of_a_pod():
    devices = topology_devices("v5e:2x2")
    step, compiled = compile_step(CONFIG, devices)
    assert "fused_scan_backward" in compiled.as_text()
    assert step.fits
    assert step.devices == 4
    whole = 4 * step.parameters
    assert step.optimizer == pytest.approx(2 * whole / 4, rel=1e-3)
    assert step.total > step.parameters + step.optimizer
    assert {c.axes for c in step.collectives} == {("fsdp",)}
    # At least every parameter once, in both directions.
    assert sum(c.bytes for c in step.collectives) > whole
    # Six times the parameters but the embedding's lookup, and what the memory does, per token.
    assert step.flops > 6 * (whole / 4) * 4 * 512

    result = row(CONFIG, step, chip_of("v5e:2x2"), devices)
    required = {
        "hbm_bytes_per_chip", "hbm_limit", "fits", "flops_per_token", "collective_bytes", "static_step_seconds",
        "static_mfu", "tokens_per_second",
    }  # fmt: skip
    assert required <= json.loads(json.dumps(result)).keys()
    assert 0 < result["static_mfu"] <= 1
    parts = [result[f"static_{name}_seconds"] for name in ("compute", "hbm", "interconnect")]
    assert result["static_step_seconds"] == max(parts)
    text = markdown({"config": "c", "topology": "v5e:2x2", "num_slices": 1, **result})
    assert "fits                yes" in text


def test_mesh_that_does_not_fit_is_refused():
    devices = topology_devices("v5e:2x2")
    config = dataclasses.replace(CONFIG, mesh=MeshConfig(data=3, fsdp=1))
    with pytest.raises(ValueError, match="must multiply to the number of devices, 4"):
        compile_step(config, devices)


def test_unknown_topology_is_named():
    with pytest.raises(ValueError, match=r"--topology=v5e:2x9, --num_slices=1"):
        topology_devices("v5e:2x9")
