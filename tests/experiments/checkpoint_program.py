"""Saves or restores a small checkpoint on a mesh; run by test_checkpoint_processes.py, once per process.

python -m tests.experiments.checkpoint_program ACTION FOLDER DATA,FSDP [PORT COUNT INDEX]
"""

import json
import sys
import zlib

import grain
import jax
import numpy as np
from etils import epath
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from orbax.checkpoint import v1 as ocp

from experiments.training.checkpoints import CheckpointError, Checkpoints
from experiments.training.config import TrainConfig
from experiments.training.workdir import open_workdir

BATCH = 8


def main(action: str, folder: str, shape: str, *processes: str) -> None:
    """Does what the arguments say, and prints what it sees as JSON."""
    if processes:
        port, count, index = map(int, processes)
        jax.distributed.initialize(f"127.0.0.1:{port}", count, index)
    data, fsdp = map(int, shape.split(","))
    mesh = Mesh(np.array(jax.devices()).reshape(data, fsdp), ("data", "fsdp"))
    rng = np.random.default_rng(0)

    def put(x: np.ndarray, *axes: str | None) -> jax.Array:
        sharding = NamedSharding(mesh, PartitionSpec(*axes))
        return jax.make_array_from_callback(x.shape, sharding, lambda part: x[part])

    kernel = rng.normal(size=(8, 12)).astype(np.float32)
    scale = 1.0 if action == "save" else 0.0
    params = {"kernel": put(scale * kernel, "fsdp", "data"), "norm": put(scale * kernel[0])}
    opt_state = (
        put(np.array(3 * scale, np.int32)),
        {"kernel": put((scale * kernel**2).astype(jax.numpy.bfloat16), None, "fsdp")},
    )
    share = grain.MapDataset.range(1000).seed(0).shuffle().repeat()
    share = share[jax.process_index() :: jax.process_count()]
    batches = iter(share.to_iter_dataset().batch(BATCH // jax.process_count()))

    if action == "save" and processes:
        try:
            open_workdir(f"{folder}-{jax.process_index()}", TrainConfig())
        except OSError as error:
            print(error)
    if action == "restore_but_second_sees_nothing" and jax.process_index() == 1:
        load = ocp.load_checkpointables

        def failing(path: epath.Path, items: dict) -> dict:
            if path.name == "2" and "params" in items:
                raise OSError("this machine's network is down")
            return load(path, items)

        ocp.load_checkpointables = failing

    checkpoints = Checkpoints(folder, every=1, keep=4)
    try:
        if action == "save":
            for step in (1, 2):
                next(batches)
                checkpoints.save(step, params, opt_state, batches, {"text": "abc"})
            step = 2
        else:
            step, params, opt_state = checkpoints.restore(
                params, opt_state, batches, {"text": "abc"}
            )
    except CheckpointError as error:
        print(json.dumps({"error": str(error)}))
        return
    finally:
        checkpoints.close()
    following = next(batches)
    leaves = jax.tree.leaves((params, opt_state))
    if jax.process_count() > 1:
        following = np.concatenate(multihost_utils.process_allgather(following))
        leaves = [multihost_utils.process_allgather(x, tiled=True) for x in leaves]
    seen = {
        "step": step,
        "shardings": [str(x.sharding.spec) for x in jax.tree.leaves((params, opt_state))],
        "crc": [zlib.crc32(np.asarray(x).tobytes()) for x in leaves],
        "following": sorted(np.asarray(following).tolist()),
    }
    print(json.dumps(seen))


if __name__ == "__main__":
    main(*sys.argv[1:])
