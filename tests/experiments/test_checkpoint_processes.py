"""A checkpoint of two processes is read by one, under another mesh, and by two when one cannot read its part."""

import json
import os
import socket
import subprocess
import sys

import pytest


def start(action, folder, shape, devices, *processes):
    flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count={devices}"
    return subprocess.Popen(
        [sys.executable, "-m", "tests.experiments.checkpoint_program", action, folder, shape, *processes],
        env=os.environ | {"XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )  # fmt: skip


def result(process):
    out, err = process.communicate(timeout=180)
    assert process.returncode == 0, err[-3000:]
    return out.splitlines()


def two(action, folder, shape):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    both = [start(action, folder, shape, 2, port, "2", str(index)) for index in (0, 1)]
    return [result(process) for process in both]


@pytest.mark.slow
def test_two_processes_save_and_one_restores_on_another_mesh(tmp_path):
    folder = str(tmp_path / "checkpoints")
    first, second = two("save", folder, "1,4")
    unshared = "process 1 does not see what process 0 wrote there"  # each had a workdir of its own
    assert [sum(unshared in line for line in lines) for lines in (first, second)] == [0, 1]
    saved = [json.loads(first[-1]), json.loads(second[-1])]
    assert saved[0] == saved[1]
    restored = json.loads(result(start("restore", folder, "2,2", 4))[-1])
    for name in ("step", "crc", "following", "shardings"):
        assert restored[name] == saved[0][name], name

    # What only one of them cannot read, both leave, together.
    lines = two("restore_but_second_sees_nothing", folder, "4,1")
    seen = [json.loads(printed[-1]) for printed in lines]
    assert [s["step"] for s in seen] == [1, 1]
    assert seen[0]["crc"] == saved[0]["crc"]
    assert seen[0]["following"] != saved[0]["following"]
    assert (tmp_path / "damaged/2").is_dir()
    said = [line for line in lines[0] if "checkpoints/2 is damaged" in line]
    assert len(said) == 1
    assert "another process cannot read it" in said[0]
    assert not [line for line in lines[1] if "damaged" in line]
