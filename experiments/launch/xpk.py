"""Trains on Kubernetes (GKE) with XPK: creates the cluster, builds an image of the last commit, starts the workload.

    python -m experiments.launch.xpk create --cluster=titans --name=mag --zone=us-west4-a --tpu_type=v5litepod-16 \\
        --capacity=spot --image=REGISTRY/train \\
        --config=experiments/configs/titans_340m.py --workdir=gs://BUCKET/mag

`resume` takes the same flags and starts the workload again, with a new image. `delete` deletes the cluster, which ends
the costs. `--dry_run` prints the commands and runs none. What follows `--` goes to `experiments.train`.
"""

import dataclasses
import re
import shlex
from collections.abc import Sequence

from absl import flags

from experiments.launch.arguments import define_flags, from_flags, launch
from experiments.launch.commands import Command, LaunchError
from experiments.launch.source import archive, archive_path, fetch_data, revision

# Machines come and go for a week; each time the workload starts again where it was.
_MAX_RESTARTS = 1000
# A checkpoint has to be written between the request to stop and the end.
_GRACE_SECONDS = 120


@dataclasses.dataclass(frozen=True)
class Workload:
    """A training run on a cluster.

    Attributes:
      cluster: its name.
      name: of the workload.
      zone: where, such as "us-west4-a".
      tpu_type: generation and size of a slice, such as "v5litepod-16".
      image: where the container image is kept, such as "REGISTRY/train", without a tag.
      capacity: "spot", "on-demand", or the name of a reservation.
      num_slices: slices that train together.
      project: whose; "" = the one that gcloud is set to.
      data: folder at gs:// that every container needs; "" = none.
    """

    cluster: str
    name: str
    zone: str
    tpu_type: str
    image: str
    capacity: str = "on-demand"
    num_slices: int = 1
    project: str = ""
    data: str = ""

    def __post_init__(self) -> None:
        for flag in ("cluster", "name"):
            if not re.fullmatch(r"[a-z]([-a-z0-9]{0,37}[a-z0-9])?", getattr(self, flag)):
                raise LaunchError(
                    f"--{flag}={getattr(self, flag)}: must be at most 39 lower-case letters, digits and hyphens, "
                    "a letter first"
                )
        if self.num_slices < 1:
            raise LaunchError(f"--num_slices={self.num_slices}: must be at least 1")


def create_cluster(work: Workload) -> list[Command]:
    """Returns the step that creates the cluster; if it is there, it is adapted."""
    if work.capacity in ("spot", "on-demand"):
        capacity = f"--{work.capacity}"
    else:
        capacity = f"--reservation={work.capacity}"
    return [
        Command("creating the cluster", (*_xpk(work, "cluster", "create"), *_size(work), capacity))
    ]


def build(work: Workload, image: str) -> list[Command]:
    """Returns the steps that put an image of the last commit, named `image`, where the cluster finds it."""
    how = ("--platform=linux/amd64", "--file=experiments/launch/Dockerfile", f"--tag={image}")
    return [
        archive(work.name),
        Command(
            "building the image", ("docker", "build", *how, "-"), stdin=archive_path(work.name)
        ),
        Command("uploading the image", ("docker", "push", image)),
    ]


def start(work: Workload, image: str, training: Sequence[str]) -> list[Command]:
    """Returns the step that starts training.

    Args:
      work: the workload.
      image: see `build`.
      training: arguments of `experiments.train`.
    """
    script = (
        "JAX_PLATFORMS=tpu,cpu sh experiments/launch/worker.sh run python -u -m experiments.train "
        + shlex.join(training)
    )
    if work.data:
        script = f"{fetch_data('python', work.data)} && {script}"
    argv = (*_xpk(work, "workload", "create"), f"--workload={work.name}", *_size(work))
    argv += (f"--docker-image={image}", f"--max-restarts={_MAX_RESTARTS}")
    argv += (f"--termination-grace-period-seconds={_GRACE_SECONDS}", f"--command={script}")
    return [Command("starting training", argv)]


def stop(work: Workload) -> list[Command]:
    """Returns the step that deletes the workload; the cluster stays."""
    argv = (*_xpk(work, "workload", "delete"), f"--workload={work.name}")
    return [Command("deleting the workload", argv)]


def delete_cluster(work: Workload) -> list[Command]:
    """Returns the step that deletes the cluster and every workload on it."""
    return [Command("deleting the cluster", _xpk(work, "cluster", "delete"))]


def steps(work: Workload, action: str, training: Sequence[str]) -> list[Command]:
    """Returns the steps of "create", "resume" or "delete"."""
    if action == "delete":
        return delete_cluster(work)
    image = (
        f"{work.image}:{revision()}"  # a name of its own, so that no node takes an older one for it
    )
    before = create_cluster(work) if action == "create" else stop(work)
    return [*build(work, image), *before, *start(work, image, training)]


def _xpk(work: Workload, noun: str, verb: str) -> tuple[str, ...]:
    project = (f"--project={work.project}",) if work.project else ()
    return ("xpk", noun, verb, f"--cluster={work.cluster}", f"--zone={work.zone}", *project)


def _size(work: Workload) -> tuple[str, ...]:
    return (f"--tpu-type={work.tpu_type}", f"--num-slices={work.num_slices}")


def main() -> None:
    """Reads the flags and runs one of the actions."""
    define_flags()
    flags.DEFINE_string("cluster", None, "name of the cluster", required=True)
    flags.DEFINE_string("tpu_type", None, "of a slice, such as v5litepod-16", required=True)
    flags.DEFINE_string("image", None, "where the container image is kept", required=True)
    flags.DEFINE_string("capacity", "on-demand", "spot, on-demand, or the name of a reservation")
    flags.DEFINE_integer("num_slices", 1, "slices that train together")

    def do(action: str, training: list[str]) -> list[Command]:
        workdir = flags.FLAGS.workdir
        if training and not workdir.startswith("gs://"):
            raise LaunchError(
                f"--workdir={workdir}: a container's disk goes with it; give gs://BUCKET/RUN"
            )
        return steps(from_flags(Workload), action, training)

    launch(do)


if __name__ == "__main__":
    main()
