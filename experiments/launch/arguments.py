"""What both launching programs take: an action, where to run, what to train."""

import dataclasses
import importlib.util
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from typing import Any, TypeVar, cast

from absl import app, flags

from experiments.launch import commands
from experiments.launch.commands import Command, LaunchError, Wait
from experiments.launch.source import DATA_FOLDER, check_committed

T = TypeVar("T")
ACTIONS = ("create", "resume", "delete")


def define_flags() -> None:
    """Defines the flags that both have; those of one are defined beside its `main`."""
    flags.DEFINE_string("name", None, "name of the run: a slice's, or a workload's", required=True)
    flags.DEFINE_string("zone", None, "where, such as us-west4-a", required=True)
    flags.DEFINE_string("project", "", "whose; the one that gcloud is set to if not given")
    flags.DEFINE_string("config", None, "config file, from the root of the checkout")
    flags.DEFINE_string("workdir", None, "gs://BUCKET/RUN")
    flags.DEFINE_string("data", "", f"gs://BUCKET/FOLDER; copied to {DATA_FOLDER} on every worker")
    flags.DEFINE_bool("dry_run", False, "print the commands and run none")


def from_flags(cls: type[T]) -> T:
    """Returns a dataclass whose fields are the flags of their names."""
    values: dict[str, Any] = {
        field.name: getattr(flags.FLAGS, field.name) for field in dataclasses.fields(cast(Any, cls))
    }
    return cls(**values)


def training_arguments(config: str, workdir: str, more: Sequence[str]) -> list[str]:
    """Returns the arguments of `experiments.train`.

    Args:
      config: path of the config file, from the root of the checkout.
      workdir: of the run.
      more: further flags of it.

    Raises:
      LaunchError: one of `more` is no flag of the config.
    """
    for argument in more:
        if not argument.startswith("--config."):
            raise LaunchError(f"unexpected argument {argument}: after -- come --config.field=value")
    return [f"--config={config}", f"--workdir={workdir}", "--config.distributed=True", *more]


def check_config(arguments: Sequence[str]) -> None:
    """Has the config read as training will, before anything is rented; in a process of its own, which needs JAX.

    Args:
      arguments: of training, without its workdir.

    Raises:
      LaunchError: the file, or a value, cannot work.
    """
    if importlib.util.find_spec("jax") is None:
        print("the config is not checked: there is no JAX here", flush=True)
        return
    found = subprocess.run(
        [sys.executable, "-m", "experiments.training.check", *arguments],
        env=os.environ | {"JAX_PLATFORMS": "cpu"},
        capture_output=True,
        text=True,
        check=False,
    )
    if found.returncode:
        said = (found.stderr or found.stdout).strip().removeprefix("error: ")
        raise LaunchError(f"the config cannot train: {said}")


def launch(steps: Callable[[str, list[str]], Sequence[Command | Wait]]) -> None:
    """Runs a program whose flags are defined; errors end it with one message.

    Args:
      steps: returns what to do for an action, with the arguments of training (none for "delete").
    """

    def main(argv: Sequence[str]) -> None:
        action, more = (argv[1] if len(argv) > 1 else ""), argv[2:]
        values = flags.FLAGS
        try:
            if action not in ACTIONS:
                raise LaunchError(f"{action or 'no action'}: give {', '.join(ACTIONS)}")
            training = []
            if action != "delete":
                if not values.config or not values.workdir:
                    raise LaunchError(f"{action} needs --config and --workdir")
                training = training_arguments(values.config, values.workdir, more)
                check_config([a for a in training if not a.startswith("--workdir=")])
                if not values.dry_run:
                    check_committed(values.config)
            commands.run(steps(action, training), dry_run=values.dry_run)
        except LaunchError as error:
            raise SystemExit(f"error: {error}") from error

    app.run(main)
