"""A training in two processes is the one in a single process, and one can go on where two stopped."""

import json
import os
import shutil
import socket
import subprocess
import sys

import pytest

from tests.experiments.tiny_run import write_text
from tests.tolerances import OUTPUT_F32

CONFIG = """\
from pathlib import Path
from tests.experiments.tiny_run import tiny_config_dict

def get_config():
    config = tiny_config_dict(Path(__file__).with_name("words.txt"))
    config.steps = 4
    config.model.variant = "lmm"
    return config
"""


def start(folder, workdir, devices, *flags, processes=1, index=0, port=0):
    environment = os.environ | {"JAX_PLATFORMS": "cpu"}
    if processes > 1:
        environment |= {
            "JAX_COORDINATOR_ADDRESS": f"127.0.0.1:{port}",
            "JAX_NUM_PROCESSES": str(processes),
            "JAX_PROCESS_ID": str(index),
        }
        flags = (*flags, "--config.distributed=True")
    return subprocess.Popen(
        [sys.executable, "-m", "experiments.train", f"--config={folder}/config.py", f"--workdir={folder}/{workdir}",
         f"--config.cpu_devices={devices}", *flags],
        env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def finish(process):
    out, err = process.communicate(timeout=300)
    assert process.returncode == 0, err[-3000:]
    return out


def losses(folder, workdir):
    lines = (folder / workdir / "lmm/metrics.jsonl").read_text().splitlines()
    records = [json.loads(line) for line in lines]
    return [r["loss"] for r in records if "loss" in r], [
        r[name] for r in records for name in ("valid_batches_bpb", "valid_bpb") if name in r
    ]


@pytest.mark.slow
def test_two_processes_train_as_one_and_one_goes_on(tmp_path):
    write_text(tmp_path)
    (tmp_path / "config.py").write_text(CONFIG)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    both = [
        start(tmp_path, "two", 2, "--config.mesh.fsdp=2", processes=2, index=index, port=port)
        for index in (0, 1)
    ]
    spoke, silent = [finish(process) for process in both]
    assert "valid_bpb=" in spoke
    assert "transformer_bpb" not in spoke  # no baseline, no score of it
    assert "valid_bpb=" not in silent
    finish(start(tmp_path, "one", 4))
    expected, scores = losses(tmp_path, "one")
    loss, score = losses(tmp_path, "two")
    assert len(loss) == 4
    assert loss == pytest.approx(expected, abs=OUTPUT_F32)
    assert score == pytest.approx(scores, abs=OUTPUT_F32)

    # One process goes on where two were after half of the steps, on another mesh.
    shutil.rmtree(tmp_path / "two/lmm/checkpoints/4")
    out = finish(start(tmp_path, "two", 4, "--config.mesh.tensor=2"))
    assert "continuing after step 2" in out
    assert losses(tmp_path, "two")[0] == pytest.approx(expected, abs=OUTPUT_F32)
