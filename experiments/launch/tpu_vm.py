"""Trains on a slice of TPU VMs: creates it, installs the last commit on every worker, starts training, tears down.

    python -m experiments.launch.tpu_vm create --name=mag --zone=us-west4-a --accelerator_type=v5litepod-16 --spot \\
        --config=experiments/configs/titans_340m.py:mag --workdir=gs://BUCKET/mag -- --config.data.path=...

`resume` takes the same flags: it creates the slice anew if it was preempted, installs, and starts; training continues
from its last checkpoint. `delete` ends the costs. `--dry_run` prints the commands and runs none. What follows `--` goes
to `experiments.train`. Nothing of JAX is imported, so any machine with gcloud can launch.
"""

import dataclasses
import re
import shlex
from collections.abc import Sequence

from absl import flags

from experiments.launch import commands
from experiments.launch.arguments import define_flags, from_flags, launch
from experiments.launch.commands import Command, LaunchError, Wait
from experiments.launch.source import archive, archive_path, fetch_data

# Images by generation; Cloud's own names. TPU7x is rented through Kubernetes only (xpk.py).
RUNTIMES = {
    "v4": "tpu-ubuntu2204-base",
    "v5litepod": "v2-alpha-tpuv5-lite",
    "v5p": "v2-alpha-tpuv5",
    "v6e": "v2-alpha-tpuv6e",
}
# Chips of the largest slice that is one machine, in the units that accelerator types count: chips, or cores of two.
_ONE_MACHINE = 8
# What a queued resource and a TPU VM say of themselves.
_RUNNING = ("ACTIVE", "READY")
_GONE = ("SUSPENDED", "FAILED", "PREEMPTED", "TERMINATED", "STOPPED")
_COMING = ("ACCEPTED", "WAITING_FOR_RESOURCES", "PROVISIONING", "CREATING", "STARTING")
# Training that fails within so many seconds of its start fails the launch, with the end of its log.
_START_SECONDS = 30
_LOG = "~/titans-train.log"
_PYTHON = "~/titans-venv/bin/python"
# Images have Python 3.10, which is too old; uv brings another without the system's package manager, which a new machine
# keeps locked while it updates itself.
_INSTALL = (
    "set -e; "
    f'flock --nonblock {_LOG}.lock true || {{ echo "training runs on $(hostname); stop it first" >&2; exit 1; }}; '
    "rm -rf ~/titans-jax; mkdir ~/titans-jax; tar -xzf ~/titans-jax.tar.gz -C ~/titans-jax; "
    "test -x ~/.local/bin/uv || python3 -m pip install --quiet --user uv; "
    "~/.local/bin/uv venv --quiet --allow-existing --python 3.11 ~/titans-venv; "
    f"cd ~/titans-jax; ~/.local/bin/uv pip install --quiet --python {_PYTHON} -e '.[gcs,text,tpu,train]'"
)


@dataclasses.dataclass(frozen=True)
class Slice:
    """A slice of TPU VMs.

    Attributes:
      name: of the slice, and of its queued resource.
      zone: where, such as "us-west4-a".
      accelerator_type: generation and size, such as "v5litepod-16".
      project: whose; "" = the one that gcloud is set to.
      runtime: the image; "" = the usual one of the generation.
      spot: cheaper, may be preempted at any time.
      queued: ask through a queued resource, and wait for it.
      data: folder at gs:// that every worker needs; "" = none.
    """

    name: str
    zone: str
    accelerator_type: str
    project: str = ""
    runtime: str = ""
    spot: bool = False
    queued: bool = False
    data: str = ""

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[a-z]([-a-z0-9]{0,60}[a-z0-9])?", self.name):
            raise LaunchError(
                f"--name={self.name}: must be lower-case letters, digits and hyphens, a letter first"
            )
        if not re.fullmatch(r"[a-z]+-[a-z]+\d+-[a-z]", self.zone):
            raise LaunchError(f"--zone={self.zone}: must be a zone, such as us-west4-a")
        if not re.fullmatch(r"v\d\w*-\d+", self.accelerator_type):
            raise LaunchError(
                f"--accelerator_type={self.accelerator_type}: must be generation and size, such as v5litepod-16"
            )
        if not self.runtime and self.generation not in RUNTIMES:
            raise LaunchError(
                f"--accelerator_type={self.accelerator_type}: no image known for {self.generation}, only for "
                f"{', '.join(RUNTIMES)}; name one with --runtime"
            )

    @property
    def generation(self) -> str:
        """Such as "v5litepod"."""
        return self.accelerator_type.rsplit("-", 1)[0]

    @property
    def image(self) -> str:
        """The name of the image."""
        return self.runtime or RUNTIMES[self.generation]

    @property
    def several_machines(self) -> bool:
        """Whether the slice is more than one machine."""
        return int(self.accelerator_type.rsplit("-", 1)[1]) > _ONE_MACHINE


def create(where: Slice) -> list[Command | Wait]:
    """Returns the steps that create a slice."""
    spot = ("--spot",) if where.spot else ()
    if not where.queued:
        argv = _gcloud(where, "tpu-vm", "create", where.name)
        argv += (f"--accelerator-type={where.accelerator_type}", f"--version={where.image}", *spot)
        return [Command("creating the slice", argv)]
    argv = _gcloud(where, "queued-resources", "create", where.name)
    argv += (f"--node-id={where.name}", f"--accelerator-type={where.accelerator_type}")
    argv += (f"--runtime-version={where.image}", *spot)
    return [Command("asking for the slice", argv), _arrival(where)]


def install(where: Slice) -> list[Command | Wait]:
    """Returns the steps that install the last commit on every worker, and copy the data there."""
    archive_file = str(archive_path(where.name))
    copy = _gcloud(where, "tpu-vm", "scp", archive_file, f"{where.name}:titans-jax.tar.gz")
    steps: list[Command | Wait] = [
        archive(where.name),
        Command("copying it to every worker", (*copy, "--worker=all")),
        _on_workers(where, "installing it on every worker", _INSTALL),
    ]
    if where.data:
        script = f"cd ~/titans-jax && {fetch_data(_PYTHON, where.data)}"
        steps.append(_on_workers(where, "copying the data to every worker", script))
    return steps


def start(where: Slice, training: Sequence[str]) -> list[Command | Wait]:
    """Returns the step that starts training on every worker.

    Args:
      where: the slice.
      training: arguments of `experiments.train`.
    """
    script = (
        f"cd ~/titans-jax && JAX_PLATFORMS=tpu,cpu sh experiments/launch/worker.sh start {_LOG} {_START_SECONDS} "
        f"{_PYTHON} -u -m experiments.train {shlex.join(training)}"
    )
    return [_on_workers(where, "starting training on every worker", script)]


def delete(where: Slice) -> list[Command | Wait]:
    """Returns the step that deletes a slice."""
    if where.queued:
        argv = _gcloud(where, "queued-resources", "delete", where.name)
        return [Command("deleting the slice and its request", (*argv, "--force"))]
    return [Command("deleting the slice", _gcloud(where, "tpu-vm", "delete", where.name))]


def describe(where: Slice) -> Command:
    """Returns the command that prints a slice's state."""
    if where.queued:
        argv = _gcloud(where, "queued-resources", "describe", where.name)
        return Command("asking for the state", (*argv, "--format=value(state.state)"))
    argv = _gcloud(where, "tpu-vm", "describe", where.name)
    return Command("asking for the state", (*argv, "--format=value(state)"))


def resume(where: Slice, training: Sequence[str], state: str | None) -> list[Command | Wait]:
    """Returns the steps that continue a run.

    Args:
      where: the slice.
      training: arguments of `experiments.train`.
      state: of the slice (`describe`); None = there is none.

    Raises:
      LaunchError: nothing can be done in this state.
    """
    if state in _RUNNING:
        before: list[Command | Wait] = []
    elif state is None:
        before = create(where)
    elif state in _GONE:
        before = [*delete(where), *create(where)]
    elif state in _COMING:
        before = [_arrival(where)]
    else:
        raise LaunchError(f"{where.name} is {state}: try again when that is over, or delete it")
    return [*before, *install(where), *start(where, training)]


def check_workdir(where: Slice, workdir: str) -> None:
    """Raises LaunchError for a workdir that the workers of a slice do not share."""
    if where.several_machines and not workdir.startswith("gs://"):
        raise LaunchError(
            f"--workdir={workdir}: the machines of {where.accelerator_type} do not share their disks; give "
            "gs://BUCKET/RUN"
        )


def _gcloud(where: Slice, group: str, verb: str, *arguments: str) -> tuple[str, ...]:
    project = (f"--project={where.project}",) if where.project else ()
    place = (f"--zone={where.zone}", *project, "--quiet")
    return ("gcloud", "compute", "tpus", group, verb, *arguments, *place)


def _on_workers(where: Slice, what: str, script: str) -> Command:
    argv = _gcloud(where, "tpu-vm", "ssh", where.name)
    return Command(what, (*argv, "--worker=all", f"--command={script}"))


def _arrival(where: Slice) -> Wait:
    until = "ACTIVE" if where.queued else "READY"
    return Wait("waiting for the slice", describe(where).argv, until, (*_GONE, "SUSPENDING"))


def steps(where: Slice, action: str, training: Sequence[str]) -> list[Command | Wait]:
    """Returns the steps of "create", "resume" or "delete"; the first asks for the state if it has to.

    Args:
      where: the slice.
      action: one of the three.
      training: arguments of `experiments.train`.
    """
    if action == "delete":
        return delete(where)
    check_workdir(where, flags.FLAGS.workdir)
    if action == "create":
        return [*create(where), *install(where), *start(where, training)]
    question = describe(where)
    print(f"# {question.what}\n{question}", flush=True)
    if flags.FLAGS.dry_run:
        print("# as if it were running; one that is gone would be deleted and created first")
        return resume(where, training, _RUNNING[0])
    return resume(where, training, commands.output_of(question))


def main() -> None:
    """Reads the flags and runs one of the actions."""
    define_flags()
    flags.DEFINE_string("accelerator_type", None, "such as v5litepod-16", required=True)
    flags.DEFINE_string("runtime", "", "the image; the usual one if not given")
    flags.DEFINE_bool("spot", False, "cheaper, may be preempted at any time")
    flags.DEFINE_bool("queued", False, "ask through a queued resource, and wait for it")

    def do(action: str, training: list[str]) -> list[Command | Wait]:
        return steps(from_flags(Slice), action, training)

    launch(do)


if __name__ == "__main__":
    main()
