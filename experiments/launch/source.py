"""The code that goes to the workers: the last commit of this checkout, as an archive."""

import subprocess
import tempfile
from pathlib import Path

from experiments.launch.commands import Command, LaunchError


def archive_path(name: str) -> Path:
    """Returns where the archive of the run `name` is made."""
    return Path(tempfile.gettempdir()) / f"titans-jax-{name}.tar.gz"


def archive(name: str) -> Command:
    """Returns the command that makes the archive."""
    path = str(archive_path(name))
    argv = ("git", "archive", "--format=tar.gz", f"--output={path}", "HEAD")
    return Command("packing the last commit", argv)


def check_committed(config: str) -> None:
    """Refuses to launch what is not in the last commit, because the workers would run something else.

    Args:
      config: path of the config file, from the root of the checkout, where this program must run.

    Raises:
      LaunchError: there are uncommitted changes, or the config file is not in the commit.
    """
    if not Path("experiments/launch").is_dir():
        raise LaunchError("run this program in the root of the checkout")
    changed = _git("status", "--porcelain", "--untracked-files=no")
    if changed.stdout.strip():
        raise LaunchError(
            "the workers get the last commit, and these changes are not in it; commit them first:\n"
            + changed.stdout.rstrip()
        )
    if _git("cat-file", "-e", f"HEAD:{config}").returncode:
        raise LaunchError(
            f"--config={config}: not in the last commit; give a path from the root of the checkout, and commit it"
        )


def revision() -> str:
    """Returns the abbreviated name of the last commit."""
    return _git("rev-parse", "--short=12", "HEAD").stdout.strip()


def _git(*arguments: str) -> subprocess.CompletedProcess[str]:
    try:
        return subprocess.run(("git", *arguments), capture_output=True, text=True, check=False)
    except FileNotFoundError as error:
        raise LaunchError("git is not on the PATH") from error
