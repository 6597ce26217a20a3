"""One training step of a variant on eight CPU devices under every mesh, against the same on one; prints JSON.

    python -m tests.experiments.sharded_program VARIANT [MESH ...]

For each mesh, or for those named: the largest differences of the loss and of the updated parameters, and bytes of
parameters per device.
"""

import dataclasses
import json
import sys
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from experiments.training.config import DataConfig, MeshConfig, TrainConfig
from experiments.training.devices import split_cpu
from experiments.training.mesh import check_layout, make_layout
from experiments.training.sharding import bytes_per_device
from experiments.training.step import init_params, make_train_step, place, split_model
from titans_jax import MemoryConfig, RecurrenceConfig, TitansConfig

MESHES = {
    "data": MeshConfig(),
    "fsdp": MeshConfig(fsdp=8),
    "tensor": MeshConfig(tensor=8),
    "sequence": MeshConfig(sequence=8),
    "data, fsdp, tensor": MeshConfig(fsdp=2, tensor=2),
    "fsdp, sequence, tensor": MeshConfig(fsdp=2, sequence=2, tensor=2),
}
BATCH, LENGTH, VOCABULARY = 8, 64, 48


def make_config(variant: Any) -> TrainConfig:
    """A model whose heads, tokens and sequences eight devices can share out.

    Its memory does not begin empty: the norm of a read of zeros multiplies gradients by 1 / sqrt(epsilon), and with
    them the roundings that meshes do not share.
    """
    model = TitansConfig(
        variant=variant, vocab_size=VOCABULARY, dim=64, num_layers=2, num_heads=8, window=8, segment=8,
        persistent_tokens=2, feed_forward=64, memory=MemoryConfig(num_heads=8, chunk=8, weights_start="plain"),
        recurrence=RecurrenceConfig(num_heads=8, chunk=8, state_size=16, mini_batch=8),
    )  # fmt: skip
    return TrainConfig(batch_size=BATCH, model=model, data=DataConfig(sequence_length=LENGTH))


def make_batch() -> dict[str, np.ndarray]:
    """Packed documents, not all of which count."""
    rng = np.random.default_rng(0)
    ids = rng.integers(0, VOCABULARY, (BATCH, LENGTH + 1), dtype=np.int32)
    reset = np.zeros((BATCH, LENGTH), bool)
    reset[:, 0] = reset[1, 24] = reset[5, 32] = True
    return {
        "inputs": ids[:, :-1],
        "targets": ids[:, 1:],
        "loss_mask": rng.random((BATCH, LENGTH)) < 0.9,
        "reset": reset,
    }


def run(config: TrainConfig, devices: list[jax.Device]) -> tuple[float, dict, int]:
    """Loss, updated parameters, and bytes of parameters on each device."""
    layout = make_layout(config.mesh, devices)
    check_layout(config, layout.mesh)
    graphdef, shapes = split_model(config.model)
    # Not Adam, whose first update is as large for a gradient of rounding errors as for any.
    optimizer = optax.sgd(0.5, momentum=0.9)
    placed = place(layout.mesh, shapes, optimizer.init)
    with jax.set_mesh(layout.mesh):
        params = init_params(config.model, 0, placed.params)
        opt_state = jax.jit(optimizer.init, out_shardings=placed.opt_state)(params)
        step = layout.in_turn(make_train_step(graphdef, optimizer, config.accumulation, placed))
        params, opt_state, metrics = step(params, opt_state, layout.share(make_batch()))
    held = max(
        sum(s.data.nbytes for x in jax.tree.leaves(params) for s in x.addressable_shards if s.device == d)
        for d in devices
    )  # fmt: skip
    assert held == bytes_per_device(shapes, placed.params)
    return float(metrics.loss), jax.device_get(params), held


def main() -> None:
    """Prints {mesh: [difference of the loss, of the parameters, bytes per device]} and the bytes of one device."""
    split_cpu(8)
    config = make_config(sys.argv[1])
    loss, params, whole = run(config, jax.devices()[:1])
    results = {"one device": [0.0, 0.0, whole]}
    for name in sys.argv[2:] or MESHES:
        other, updated, held = run(dataclasses.replace(config, mesh=MESHES[name]), jax.devices())
        differences = jax.tree.map(lambda a, b: float(jnp.max(jnp.abs(a - b))), params, updated)
        results[name] = [abs(other - loss), max(jax.tree.leaves(differences)), held]
    print(json.dumps(results))


if __name__ == "__main__":
    main()
