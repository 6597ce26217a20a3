"""What goes to the workers: the last commit of this checkout, as an archive, and the data of the run."""

import shlex
import subprocess
import tempfile
from pathlib import Path

from experiments.launch.commands import Command, LaunchError

DATA_FOLDER = "/tmp/titans-data"


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
      config: path of the config file, from the root of the checkout, where this program must run; what follows a
        colon is the file's argument.

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
    if _git("cat-file", "-e", f"HEAD:{config.partition(':')[0]}").returncode:
        raise LaunchError(
            f"--config={config}: not in the last commit; give a path from the root of the checkout, and commit it"
        )


def revision() -> str:
    """Returns the abbreviated name of the last commit."""
    return _git("rev-parse", "--short=12", "HEAD").stdout.strip()


def fetch_data(python: str, data: str) -> str:
    """Returns the line of a shell script that copies `data` to DATA_FOLDER.

    Args:
      python: that has this project's extra "gcs".
      data: URL of a folder.

    Raises:
      LaunchError: it is no URL.
    """
    if not data.startswith("gs://"):
        raise LaunchError(f"--data={data}: must be gs://BUCKET/FOLDER")
    return f"{python} -m experiments.launch.fetch {shlex.quote(data)} {DATA_FOLDER}"


def _git(*arguments: str) -> subprocess.CompletedProcess[str]:
    try:
        return subprocess.run(("git", *arguments), capture_output=True, text=True, check=False)
    except FileNotFoundError as error:
        raise LaunchError("git is not on the PATH") from error
