"""Commands of other programs, run one after another or only printed; the first that fails stops the rest."""

import shlex
import shutil
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

POLL_SECONDS = 30.0


class LaunchError(Exception):
    """A command failed, or what it found does not allow to go on."""


class Command(NamedTuple):
    """One command."""

    what: str  # it does, in words
    argv: tuple[str, ...]
    stdin: Path | None = None

    def __str__(self) -> str:
        line = shlex.join(self.argv)
        return line if self.stdin is None else f"{line} < {shlex.quote(str(self.stdin))}"


class Wait(NamedTuple):
    """A command that is repeated until it prints `until`."""

    what: str
    argv: tuple[str, ...]
    until: str
    hopeless: tuple[str, ...]  # what it prints when waiting is in vain

    def __str__(self) -> str:
        return f"{shlex.join(self.argv)}  # repeated until it prints {self.until}"


def run(steps: Sequence[Command | Wait], *, dry_run: bool) -> None:
    """Runs every step, or prints them as lines of a shell script.

    Raises:
      LaunchError: a step failed; names it. The steps after it are not run.
    """
    for step in steps:
        print(f"# {step.what}\n{step}", flush=True)
        if dry_run:
            continue
        if isinstance(step, Wait):
            _wait(step)
        else:
            _run(step)


def output_of(command: Command) -> str | None:
    """Runs a command that describes a resource; returns what it prints, None if there is no such resource.

    Raises:
      LaunchError: it failed for another reason.
    """
    done = subprocess.run(_found(command.argv), capture_output=True, text=True, check=False)
    if done.returncode == 0:
        return done.stdout.strip()
    if "NOT_FOUND" in done.stderr:
        return None
    raise LaunchError(
        f"{command.what} failed with exit code {done.returncode}: {command}\n{done.stderr.strip()}"
    )


def _run(command: Command) -> None:
    argv = _found(command.argv)
    if command.stdin is None:
        code = subprocess.run(argv, check=False).returncode
    else:
        with command.stdin.open("rb") as file:
            code = subprocess.run(argv, stdin=file, check=False).returncode
    if code:
        raise LaunchError(f"{command.what} failed with exit code {code}: {command}")


def _wait(step: Wait) -> None:
    while True:
        state = output_of(Command(step.what, step.argv))
        print(f"# {state}", flush=True)
        if state == step.until:
            return
        if state is None or state in step.hopeless:
            raise LaunchError(f"{step.what}: it is {state or 'gone'}: {shlex.join(step.argv)}")
        time.sleep(POLL_SECONDS)


def _found(argv: tuple[str, ...]) -> tuple[str, ...]:
    if shutil.which(argv[0]) is None:
        raise LaunchError(
            f"{argv[0]} is not on the PATH; README.md beside this program says what to install"
        )
    return argv
