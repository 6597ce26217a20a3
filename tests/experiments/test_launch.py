"""Launching: the commands that reach gcloud, xpk, docker and git, and what happens when one of them fails.

Stand-ins on the PATH write down the arguments that they are given.
"""

import json
import os
import shlex
import signal
import subprocess
import sys
import time

import fsspec
import pytest

from experiments.launch import commands, source, tpu_vm, xpk
from experiments.launch.arguments import check_config, training_arguments
from experiments.launch.commands import Command, LaunchError, Wait
from experiments.launch.fetch import fetch

CONFIG = "experiments/configs/tiny.py"
STAND_IN = """#!{python}
import json, os, pathlib, sys
folder = pathlib.Path({folder!r})
arguments = [os.path.basename(sys.argv[0]), *sys.argv[1:]]
with (folder / "calls.jsonl").open("a") as file:
    file.write(json.dumps(arguments) + "\\n")
answers = json.loads((folder / "answers.json").read_text())
for words, (code, out, err) in answers.items():
    if words in " ".join(arguments):
        print(out)
        print(err, file=sys.stderr)
        sys.exit(code)
"""


class Programs:
    """Stand-ins for the programs that launching calls."""

    def __init__(self, folder):
        self.folder = folder
        self.answer({})
        for name in ("gcloud", "xpk", "docker", "git"):
            file = folder / name
            file.write_text(STAND_IN.format(python=sys.executable, folder=str(folder)))
            file.chmod(0o755)

    def answer(self, answers):
        """Sets (exit code, stdout, stderr) of calls that contain certain words."""
        (self.folder / "answers.json").write_text(json.dumps(answers))

    def calls(self):
        file = self.folder / "calls.jsonl"
        return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []


@pytest.fixture
def programs(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    return Programs(tmp_path)


def launch(module, action, *flags):
    return subprocess.run(
        [sys.executable, "-m", f"experiments.launch.{module}", action, *flags],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


VM = [
    "--name=mag", "--zone=us-west4-a", "--project=mine", "--accelerator_type=v5litepod-16", "--spot",
    f"--config={CONFIG}", "--workdir=gs://bucket/mag",
]  # fmt: skip
GKE = [
    "--cluster=titans", "--name=mag", "--zone=us-west4-a", "--tpu_type=v5litepod-16", "--capacity=spot",
    "--image=registry/train", f"--config={CONFIG}", "--workdir=gs://bucket/mag",
]  # fmt: skip
TRAIN = (
    f"experiments.train --config={CONFIG} --workdir=gs://bucket/mag "
    "--config.distributed=True --config.model.variant=mag"
)
MORE = ["--", "--config.model.variant=mag"]


def printed(output):
    """The commands that a dry run prints, and the files that they read."""
    lines = [line for line in output.splitlines() if line and not line.startswith("#")]
    return [shlex.split(line.split(" < ")[0], comments=True) for line in lines]


def only(name, calls):
    return [call for call in calls if call[0] == name]


@pytest.mark.parametrize(("module", "flags"), [("tpu_vm", VM), ("xpk", GKE)])
@pytest.mark.parametrize("action", ["create", "resume", "delete"])
def test_dry_run_prints_what_is_run_and_runs_nothing(module, flags, action, programs):
    programs.answer({"rev-parse": (0, "abc123", ""), "describe": (0, "READY", "")})
    archive = programs.folder / "titans-jax-mag.tar.gz"
    archive.write_bytes(b"")
    dry = launch(module, action, *flags, "--dry_run", *MORE)
    assert dry.returncode == 0, dry.stderr
    assert {call[1] for call in programs.calls()} <= {"status", "cat-file", "rev-parse"}
    (programs.folder / "calls.jsonl").unlink(missing_ok=True)
    real = launch(module, action, *flags, *MORE)
    assert real.returncode == 0, real.stderr
    looked = ("status", "cat-file", "rev-parse")
    assert printed(dry.stdout) == [call for call in programs.calls() if call[1] not in looked]


def test_create_on_tpu_vms(programs):
    assert launch("tpu_vm", "create", *VM, *MORE).returncode == 0
    create, copy, install, start = only("gcloud", programs.calls())
    where = ["--zone=us-west4-a", "--project=mine", "--quiet"]
    assert create == [
        "gcloud", "compute", "tpus", "tpu-vm", "create", "mag", *where, "--accelerator-type=v5litepod-16",
        "--version=v2-alpha-tpuv5-lite", "--spot",
    ]  # fmt: skip
    archive = str(programs.folder / "titans-jax-mag.tar.gz")
    assert copy == [
        "gcloud", "compute", "tpus", "tpu-vm", "scp", archive, "mag:titans-jax.tar.gz", *where, "--worker=all",
    ]  # fmt: skip
    assert only("git", programs.calls())[-1] == [
        "git", "archive", "--format=tar.gz", f"--output={archive}", "HEAD",
    ]  # fmt: skip
    for call in (install, start):
        assert call[:-1] == [
            "gcloud", "compute", "tpus", "tpu-vm", "ssh", "mag", *where, "--worker=all"
        ]  # fmt: skip
    assert "-e '.[gcs,text,tpu,train]'" in install[-1]
    assert start[-1] == (
        "--command=cd ~/titans-jax && JAX_PLATFORMS=tpu,cpu sh experiments/launch/worker.sh start "
        f"~/titans-train.log 30 ~/titans-venv/bin/python -u -m {TRAIN}"
    )


def test_queued_slice_is_asked_for_and_waited_for(programs, monkeypatch):
    where = tpu_vm.Slice("mag", "us-west4-a", "v6e-16", queued=True)
    ask, wait = tpu_vm.create(where)
    assert ask.argv[3:6] == ("queued-resources", "create", "mag")
    assert {"--node-id=mag", "--runtime-version=v2-alpha-tpuv6e"} <= set(ask.argv)
    assert "--spot" not in ask.argv
    states = iter(["WAITING_FOR_RESOURCES", "PROVISIONING", "ACTIVE"])
    slept = []

    def sleep(seconds):
        slept.append(seconds)
        programs.answer({"describe": (0, next(states), "")})

    monkeypatch.setattr(commands.time, "sleep", sleep)
    programs.answer({"describe": (0, next(states), "")})
    commands.run([wait], dry_run=False)
    assert slept == [commands.POLL_SECONDS] * 2
    programs.answer({"describe": (0, "FAILED", "")})
    with pytest.raises(LaunchError, match="waiting for the slice: it is FAILED"):
        commands.run([wait], dry_run=False)
    assert tpu_vm.delete(where)[0].argv[3:] == (
        "queued-resources", "delete", "mag", "--zone=us-west4-a", "--quiet", "--force",
    )  # fmt: skip


@pytest.mark.parametrize(
    ("state", "verbs"),
    [
        ("READY", ["describe", "scp", "ssh", "ssh"]),
        ("PREEMPTED", ["describe", "delete", "create", "scp", "ssh", "ssh"]),
        (None, ["describe", "create", "scp", "ssh", "ssh"]),
    ],
)
def test_resume_does_what_the_state_asks_for(state, verbs, programs):
    answer = (1, "", "ERROR: NOT_FOUND: no such node") if state is None else (0, state, "")
    programs.answer({"describe": answer})
    done = launch("tpu_vm", "resume", *VM)
    assert done.returncode == 0, done.stderr
    assert [call[4] for call in only("gcloud", programs.calls())] == verbs


def test_state_in_which_nothing_can_be_done():
    where = tpu_vm.Slice("mag", "us-west4-a", "v5p-8")
    with pytest.raises(LaunchError, match="mag is REPAIRING"):
        tpu_vm.resume(where, [], "REPAIRING")
    assert tpu_vm.resume(where, [], "CREATING")[0].until == "READY"


def test_create_on_kubernetes(programs):
    programs.answer({"rev-parse": (0, "abc123", "")})
    (programs.folder / "titans-jax-mag.tar.gz").write_bytes(b"")
    done = launch("xpk", "create", *GKE, "--num_slices=2", *MORE)
    assert done.returncode == 0, done.stderr
    assert only("docker", programs.calls()) == [
        [
            "docker", "build", "--platform=linux/amd64", "--file=experiments/launch/Dockerfile",
            "--tag=registry/train:abc123", "-",
        ],
        ["docker", "push", "registry/train:abc123"],
    ]  # fmt: skip
    where = ["--cluster=titans", "--zone=us-west4-a"]
    size = ["--tpu-type=v5litepod-16", "--num-slices=2"]
    assert only("xpk", programs.calls()) == [
        ["xpk", "cluster", "create", *where, *size, "--spot"],
        [
            "xpk", "workload", "create", *where, "--workload=mag", *size, "--docker-image=registry/train:abc123",
            "--max-restarts=1000", "--termination-grace-period-seconds=120",
            "--command=JAX_PLATFORMS=tpu,cpu sh experiments/launch/worker.sh run python -u -m " + TRAIN,
        ],
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("module", "flags", "words", "named"),
    [
        ("tpu_vm", VM, "tpu-vm create", "creating the slice failed with exit code 3: gcloud"),
        ("tpu_vm", VM, "tpu-vm scp", "copying it to every worker failed with exit code 3: gcloud"),
        ("xpk", GKE, "cluster create", "creating the cluster failed with exit code 3: xpk"),
    ],
)
def test_failing_command_is_named_and_stops_the_rest(module, flags, words, named, programs):
    programs.answer({words: (3, "", "no quota"), "rev-parse": (0, "abc123", "")})
    (programs.folder / "titans-jax-mag.tar.gz").write_bytes(b"")
    done = launch(module, "create", *flags)
    assert done.returncode == 1
    assert f"error: {named}" in done.stderr
    assert "Traceback" not in done.stderr
    assert words in " ".join(programs.calls()[-1])


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (["--workdir=/home/me/run"], "do not share their disks"),
        (["--name=My_Run"], "--name=My_Run: must be"),
        (["--zone=Paris"], "--zone=Paris: must be a zone"),
        (["--accelerator_type=v5e"], "--accelerator_type=v5e: must be"),
        (["--accelerator_type=v9-16"], "no image known for v9"),
        (["--", "--steps=3"], "unexpected argument --steps=3"),
        (["--config="], "create needs --config and --workdir"),
    ],
)
def test_what_cannot_work_is_said_before_anything_is_run(change, named, programs):
    done = launch("tpu_vm", "create", *VM, *change)
    assert done.returncode == 1
    assert named in done.stderr
    assert only("gcloud", programs.calls()) == []


def test_only_what_is_committed_is_launched(programs):
    programs.answer({"status": (0, " M titans_jax/typing.py", "")})
    done = launch("tpu_vm", "create", *VM)
    assert "commit them first:\n M titans_jax/typing.py" in done.stderr
    programs.answer({"cat-file": (128, "", "fatal: not there")})
    done = launch("tpu_vm", "create", *VM)
    assert f"--config={CONFIG}: not in the last commit" in done.stderr
    done = launch("tpu_vm", "create", *VM, f"--config={CONFIG}:mag")
    assert programs.calls()[-1] == ["git", "cat-file", "-e", f"HEAD:{CONFIG}"]
    assert only("gcloud", programs.calls()) == []


def test_one_machine_may_have_a_folder_as_workdir():
    tpu_vm.check_workdir(tpu_vm.Slice("mag", "us-west4-a", "v5litepod-8"), "/home/me/run")
    with pytest.raises(LaunchError, match="at most 39"):
        xpk.Workload("titans", "m" * 40, "us-west4-a", "v5litepod-16", "registry/train")
    assert training_arguments("c.py", "w", ["--config.steps=3"])[-1] == "--config.steps=3"
    assert source.archive("mag").argv[:2] == ("git", "archive")


def test_data_is_copied_to_every_worker_before_training():
    where = tpu_vm.Slice("mag", "us-west4-a", "v5litepod-16", data="gs://bucket/data")
    script = tpu_vm.install(where)[-1].argv[-1]
    fetch = "-m experiments.launch.fetch gs://bucket/data /tmp/titans-data"
    assert script == f"--command=cd ~/titans-jax && ~/titans-venv/bin/python {fetch}"
    work = xpk.Workload(
        "titans", "mag", "us-west4-a", "v5p-8", "registry/train", data="gs://bucket/data"
    )
    assert f"--command=python {fetch} && JAX_PLATFORMS" in xpk.start(work, "image", [])[0].argv[-1]
    with pytest.raises(LaunchError, match="--data=/home/me: must be gs://"):
        source.fetch_data("python", "/home/me")


@pytest.mark.parametrize("name", ["../outside.txt", "a/../../outside.txt", "a\\..\\b"])
def test_fetch_writes_nothing_outside_of_its_folder(tmp_path, monkeypatch, name):
    """Object storages take any name, ".." too."""
    storage = fsspec.filesystem("memory")
    monkeypatch.setattr(fsspec, "url_to_fs", lambda url: (storage, "/data"))
    found = {f"/data/{name}": {"size": 3, "type": "file"}}
    monkeypatch.setattr(storage, "find", lambda root, detail: found)
    with pytest.raises(ValueError, match="leads out of its folder"):
        fetch("memory://data", tmp_path / "in")
    assert not (tmp_path / "outside.txt").exists()


def test_fetch_copies_what_is_missing_or_was_cut(tmp_path):
    there, here = tmp_path / "there", tmp_path / "here"
    (there / "books").mkdir(parents=True)
    for name in ("manifest.json", "books/one", "books/two"):
        (there / name).write_text(f"text of {name}")
    assert fetch(f"file://{there}", here) == 3
    (here / "books/one").write_text("text")
    (here / "books/two").unlink()
    assert fetch(f"file://{there}", here) == 2
    assert fetch(f"file://{there}", here) == 0
    copied = {str(p.relative_to(here)): p.read_text() for p in here.rglob("*") if p.is_file()}
    assert copied == {
        name: f"text of {name}" for name in ("manifest.json", "books/one", "books/two")
    }
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match="no file there"):
        fetch(f"file://{tmp_path}/empty", here)


def test_missing_program_is_named(monkeypatch):
    monkeypatch.setenv("PATH", "")
    with pytest.raises(LaunchError, match="xpk is not on the PATH"):
        commands.run([Command("trying", ("xpk",))], dry_run=False)
    commands.run([Command("trying", ("xpk",)), Wait("waiting", ("xpk",), "", ())], dry_run=True)


def test_installation_replaces_the_code_unless_training_runs(programs):
    home = programs.folder / "home"
    (home / ".local/bin").mkdir(parents=True)
    (home / "titans-jax").mkdir()
    (home / "titans-jax/stale.py").touch()
    (programs.folder / "gcloud").rename(home / ".local/bin/uv")
    packed = ["tar", "-czf", home / "titans-jax.tar.gz", "-C", os.getcwd(), "setup.cfg"]
    subprocess.run(packed, check=True)
    where = tpu_vm.Slice("mag", "us-west4-a", "v5litepod-16")
    script = tpu_vm.install(where)[-1].argv[-1].removeprefix("--command=")
    install = ["sh", "-c", script]
    environment = os.environ | {"HOME": str(home)}
    subprocess.run(install, env=environment, check=True)
    assert [p.name for p in (home / "titans-jax").iterdir()] == ["setup.cfg"]
    python = str(home / "titans-venv/bin/python")
    assert programs.calls()[-1] == [
        "uv", "pip", "install", "--quiet", "--python", python, "-e", ".[gcs,text,tpu,train]"
    ]  # fmt: skip
    (home / "titans-jax/running.py").touch()
    lock = home / "titans-train.log.lock"
    refused = subprocess.run(
        ["flock", lock, *install], env=environment, capture_output=True, text=True, check=False
    )
    assert refused.returncode == 1
    assert "stop it first" in refused.stderr
    assert (home / "titans-jax/running.py").exists()


# The script on the workers, with a stand-in for training.

SCRIPT = "experiments/launch/worker.sh"
TRAINING = """
import os, pathlib, signal, sys, time
codes = pathlib.Path(sys.argv[1])
first, *rest = codes.read_text().split()
codes.write_text(" ".join(rest))
if first == "wait":
    def stop(*_):
        time.sleep(0.3)  # saving
        sys.exit(75)
    signal.signal(signal.SIGTERM, stop)
    codes.with_name("worker").write_text(str(os.getppid()))
    print("waiting", flush=True)
    time.sleep(60)
sys.exit(int(first))
"""


def worker(tmp_path, codes, *arguments):
    (tmp_path / "codes").write_text(codes)
    return ["sh", SCRIPT, *arguments, sys.executable, "-c", TRAINING, str(tmp_path / "codes")]


@pytest.mark.parametrize(
    ("codes", "code", "left"), [("75 75 0 0", 0, "0"), ("75 1 0", 1, "0"), ("3 0", 3, "0")]
)
def test_preempted_training_is_started_again(codes, code, left, tmp_path):
    done = subprocess.run(worker(tmp_path, codes, "run"), capture_output=True, check=False)
    assert done.returncode == code
    assert (tmp_path / "codes").read_text() == left


def test_worker_that_is_stopped_lets_training_save_and_ends(tmp_path):
    process = subprocess.Popen(worker(tmp_path, "wait 0", "run"), stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "waiting\n"
    process.terminate()
    assert process.wait(timeout=30) == 75
    assert (tmp_path / "codes").read_text() == "0"  # not started again


def test_detached_start(tmp_path):
    log = tmp_path / "log"
    failed = subprocess.run(
        worker(tmp_path, "4", "start", str(log), "20"), capture_output=True, text=True, check=False
    )
    assert failed.returncode == 4
    assert "worker.sh: exit code 4" in failed.stderr
    running = subprocess.run(worker(tmp_path, "wait", "start", str(log), "1"), check=False)
    assert running.returncode == 0
    second = subprocess.run(
        worker(tmp_path, "0", "start", str(log), "1"), capture_output=True, text=True, check=False
    )
    assert second.returncode == 1
    assert "already" in second.stderr
    os.kill(
        int((tmp_path / "worker").read_text()), signal.SIGTERM
    )  # as a machine does that goes away
    for _ in range(100):
        if "exit code 75" in log.read_text():
            break
        time.sleep(0.1)
    assert "exit code 75" in log.read_text()


@pytest.mark.parametrize(
    ("argument", "said"),
    [
        ("--config.steps=-1", "config.steps=-1: must be a positive integer"),
        ("--config.model.dmi=64", "--config.model.dmi: no such field"),
        ("--config=experiments/configs/nowhere.py", "nowhere.py"),
    ],
)
def test_a_config_that_cannot_train_is_refused_before_anything_is_rented(argument, said):
    arguments = [f"--config={CONFIG}", argument]
    with pytest.raises(LaunchError, match="the config cannot train") as error:
        check_config(arguments[-1:] if argument.startswith("--config=") else arguments)
    assert said in str(error.value)
    check_config([f"--config={CONFIG}", "--config.steps=3"])
