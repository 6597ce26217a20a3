"""What the commands of all experiments share: a config file by default, flags, and errors without a traceback.

if __name__ == "__main__":
    define_flags("state_tracking")
    app.run(main, flags_parser=parser("experiments/configs/state_tracking.py"))
"""

import os
import shlex
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from absl import app, flags, logging
from ml_collections import config_flags

from experiments.training.checkpoints import CheckpointError
from experiments.training.config import parse_flags

_ROOT = Path(__file__).parents[2]
#: Variables that do not change what is computed, but how fast.
_SPEED_VARIABLES = ("GLIBC_TUNABLES",)


def define_flags(name: str) -> None:
    """Defines --config, --workdir and --output: when the command runs, for a process may import several.

    Args:
      name: of the experiment.
    """
    config_flags.DEFINE_config_file("config", None, "a file of experiments/configs/")
    flags.DEFINE_string("workdir", f"runs/{name}", "folder of the trials; a run continues there")
    flags.DEFINE_string("output", None, "PATH of PATH.json, PATH.md, PATH.png; WORKDIR/results")


def parser(default_config: str) -> Callable[[Sequence[str]], list[str]]:
    """Returns `parse_flags` for an experiment whose --config may be left out.

    Args:
      default_config: path within the repository.
    """

    def parse(argv: Sequence[str]) -> list[str]:
        if not any(argument.startswith("--config=") for argument in argv[1:]):
            argv = [argv[0], f"--config={_ROOT / default_config}", *argv[1:]]
        return parse_flags(argv)

    return parse


def output_path() -> Path:
    """The results' path without a suffix."""
    return Path(flags.FLAGS.output or Path(flags.FLAGS.workdir) / "results")


def command_line(module: str, arguments: Sequence[str] | None = None) -> str:
    """The command of this process, as it can be given again.

    Args:
      module: what Python runs.
      arguments: what the program was given; None for those of this process.
    """
    given = sys.argv[1:] if arguments is None else arguments
    settings = [f"{name}={os.environ[name]}" for name in _SPEED_VARIABLES if os.environ.get(name)]
    return shlex.join([*settings, "python", "-m", module, *given])


@contextmanager
def messages(argv: Sequence[str]) -> Iterator[None]:
    """Ends the program with one message where the user can do something about it.

    Args:
      argv: what absl left over: nothing but the program's name is right.
    """
    if len(argv) > 1:
        raise app.UsageError(f"unexpected arguments {argv[1:]}: everything is a --flag=value")
    logging.set_verbosity(logging.FATAL)  # Orbax logs every file it touches; what matters is raised
    try:
        yield
    except (CheckpointError, ValueError, OSError, ImportError) as error:
        raise SystemExit(f"error: {error}") from error
