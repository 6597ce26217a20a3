"""The front of a command: absl flags, `--help` that says everything, errors without a traceback.

A config is a frozen dataclass whose docstring has a line for every field. Its fields are flags of the command, either
`--config.field=value` beside a config file (`--config=FILE`) or, of a small config, `--field=value`; what `--help` says
of a field is its line.

    command.study(main, REPORT, NeedleConfig, "needle_in_a_haystack", data=True)

is all of an experiment's command: `main(config, workdir, data)` returns the results.
"""

import dataclasses
import inspect
import os
import re
import shlex
import sys
import textwrap
import typing
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any, TypeVar

from absl import app, flags, logging
from ml_collections import config_flags

from experiments.comparison.page import Report, write_results
from experiments.compilation_cache import keep_compiled
from experiments.training.checkpoints import CheckpointError
from experiments.training.config import flatten, from_config_dict, load_config, parse_flags

T = TypeVar("T")
#: The environment variable that stands for --data_dir.
DATA = "TITANS_DATA"
_CONFIGS = Path(__file__).parent / "configs"
#: Variables that do not change what is computed, but how fast.
_SPEED_VARIABLES = ("GLIBC_TUNABLES",)
#: Flags that say where files are, which differs from machine to machine: a result's command has DIR, or nothing.
_PLACES, _OWN_PLACES = ("data_dir", "pretrained"), ("workdir", "output")
_HELP = ("--help", "-help", "-h", "--helpfull", "-helpfull")
_CACHE = "compilation_cache"
_LISTED = 100  # characters of a line of help


def study(
    main: Callable[..., dict[str, Any]],
    report: Report,
    config: type,
    name: str,
    *,
    data: bool = False,
    file: bool = True,
) -> None:
    """Runs an experiment's command, which writes results JSON, page and picture.

    Args:
      main: given a config, the workdir and, if it reads data, their folder, returns the results. An entry "name" of
        them is that of the files, which is "results" without it.
      report: makes the page.
      config: a dataclass.
      name: of the experiment, of its workdir in runs/ and of its file in experiments/configs/.
      data: whether it reads data.
      file: whether its config is a file; else every field is a flag.
    """
    default = str(_CONFIGS / f"{name}.py") if file else None

    def define() -> None:
        if file:
            config_flags.DEFINE_config_file("config", None, "a file of experiments/configs/")
        else:
            define_fields(config)
        workdir = "folder of the trials; a run continues there"
        flags.DEFINE_string("workdir", f"runs/{name}", workdir)
        flags.DEFINE_string("output", None, "PATH of PATH.json, PATH.md, PATH.png; in WORKDIR")
        if data:
            define_data_dir()

    def run_main() -> None:
        given = flags.FLAGS
        workdir = Path(given.workdir)
        read: Any = from_config_dict(config, given.config) if file else read_fields(config)
        results = main(read, workdir, data_dir()) if data else main(read, workdir)
        output = Path(given.output) if given.output else workdir / results.get("name", "results")
        write_results({"command": command_line(), **results}, output, report)

    run(run_main, define, config=config if file else None, default=default)


def run(
    main: Callable[[], None],
    define_flags: Callable[[], object] | None = None,
    *,
    config: type | None = None,
    default: str | None = None,
    cached: bool = True,
    one_line: bool = True,
) -> None:
    """Defines and parses the flags and runs; what a user can do something about ends in one line.

    A module that defines flags when it is imported cannot share a process, such as a notebook's, with another that has
    one of the same name: they are defined here.

    Args:
      main: the program.
      define_flags: defines its own flags.
      config: of --config, a dataclass; None if there is none.
      default: path of the config file where --config is left out.
      cached: whether what it compiles is kept for its next start (compilation_cache.py), unless the user gives
        --nocompilation_cache; a report on a compiler does without.
      one_line: False for a program that says itself what a user can do something about.
    """
    if define_flags is not None:
        define_flags()
    if cached:
        flags.DEFINE_bool(_CACHE, True, "keep what is compiled in the user's cache folder")

    def parse(argv: Sequence[str]) -> list[str]:
        given = any(argument.startswith("--config=") for argument in argv[1:])
        if default is not None and not given:
            argv = [argv[0], f"--config={default}", *argv[1:]]
        if any(argument in _HELP for argument in argv[1:]):
            print(help_text(argv, config))
            sys.exit(0)
        return parse_flags(argv)

    def checked(argv: Sequence[str]) -> None:
        if len(argv) > 1:
            raise app.UsageError(f"unexpected arguments {argv[1:]}: everything is a --flag=value")
        if cached and flags.FLAGS[_CACHE].value:
            keep_compiled()
        with messages() if one_line else nullcontext():
            main()

    app.run(checked, flags_parser=parse)


@contextmanager
def messages() -> Iterator[None]:
    """Ends the program with one line where the user can do something about it."""
    logging.set_verbosity(logging.FATAL)  # Orbax logs every file it touches; what matters is raised
    try:
        yield
    except (CheckpointError, ValueError, OSError, ImportError, FloatingPointError) as error:
        raise SystemExit(f"error: {error}") from error


def define_data_dir() -> None:
    """Defines --data_dir."""
    flags.DEFINE_string("data_dir", None, f"folder of the data; by default ${DATA}")


def data_dir() -> Path:
    """The folder that --data_dir or the environment says.

    Raises:
      ValueError: neither does.
      FileNotFoundError: there is no such folder.
    """
    given = flags.FLAGS.data_dir or os.environ.get(DATA)
    if not given:
        raise ValueError(f"give --data_dir=DIR, the folder of the data, or set {DATA}")
    folder = Path(given)
    if not folder.is_dir():
        raise FileNotFoundError(f"--data_dir={given}: there is no such folder")
    return folder


def command_line(module: str | None = None, arguments: Sequence[str] | None = None) -> str:
    """The command of this process, as it can be given again elsewhere.

    Args:
      module: what Python runs; None for what it was given.
      arguments: what the program was given; None for those of this process.
    """
    spec = sys.modules["__main__"].__spec__
    module = module or (spec.name if spec else sys.argv[0])
    said = []
    for argument in sys.argv[1:] if arguments is None else arguments:
        name = argument.removeprefix("--").partition("=")[0]
        if name in _PLACES:
            argument = f"--{name}=DIR"
        if name not in _OWN_PLACES:
            said.append(argument)
    settings = [f"{name}={os.environ[name]}" for name in _SPEED_VARIABLES if os.environ.get(name)]
    return shlex.join([*settings, "python", "-m", module, *said])


def define_fields(config: type) -> None:
    """Defines a flag for every field of a dataclass, with the field's line as its help; lists have commas between."""
    documented = field_docs(config)
    for field in dataclasses.fields(config):
        name = field.name
        default: Any = field.default
        said = documented[name]
        if isinstance(default, bool):
            flags.DEFINE_bool(name, default, said)
        elif isinstance(default, tuple):
            flags.DEFINE_list(name, [str(value) for value in default], said)
        elif isinstance(default, float):
            flags.DEFINE_float(name, default, said)
        elif isinstance(default, int):
            flags.DEFINE_integer(name, default, said)
        else:
            flags.DEFINE_string(name, default, said)


def read_fields(config: type[T]) -> T:
    """The dataclass of the flags that `define_fields` made.

    Raises:
      ValueError: a value cannot work; names the flag.
    """
    hints = typing.get_type_hints(config)
    values = {}
    for field in dataclasses.fields(config):  # type: ignore[arg-type]
        value = getattr(flags.FLAGS, field.name)
        if isinstance(field.default, tuple):
            kind = typing.get_args(hints[field.name])[0]
            try:
                value = tuple(kind(one) for one in value)
            except ValueError as error:
                raise ValueError(
                    f"--{field.name}={','.join(value)}: must be {kind.__name__}s with commas between"
                ) from error
        values[field.name] = value
    return config(**values)


def help_text(argv: Sequence[str], config: type | None = None) -> str:
    """What `--help` prints: the program's docstring, its flags, and every field of its config with its value.

    Args:
      argv: the program and its arguments; a --config= among them says the values that are shown.
      config: the dataclass of --config.
    """
    parts = [(sys.modules["__main__"].__doc__ or "").strip(), "\nFlags:"]
    parts += [_item(f"--{name}", flag.default, flag.help) for name, flag in _own_flags()]
    path = next((a.partition("=")[2] for a in argv if a.startswith("--config=")), None)
    if config is None or path is None:
        return "\n".join(parts)
    documented = nested_docs(config)
    parts.append(f"\nFields of {path}:")
    for name, value in flatten(load_config(path).to_dict()).items():
        parts.append(_item(f"--config.{name}", value, documented[name]))
    return "\n".join(parts)


def nested_docs(config: type, prefix: str = "") -> dict[str, str]:
    """`field_docs` of a config and of the configs within it, by names such as "model.memory.chunk".

    Args:
      config: a dataclass.
      prefix: of the names.
    """
    documented = field_docs(config)
    found: dict[str, str] = {}
    for name, hint in typing.get_type_hints(config).items():
        if dataclasses.is_dataclass(hint):
            found |= nested_docs(typing.cast(type, hint), f"{prefix}{name}.")
        else:
            found[prefix + name] = documented[name]
    return found


def field_docs(config: type) -> dict[str, str]:
    """What a dataclass's docstring says of each field under "Attributes:".

    Raises:
      ValueError: it says nothing of a field.
    """
    said = inspect.cleandoc(config.__doc__ or "").partition("\nAttributes:\n")[2]
    documented: dict[str, str] = {}
    entries = re.split(r"^ {2,4}(?=\w+: )", said, flags=re.MULTILINE)
    for entry in entries[1:]:
        name, _, text = entry.partition(": ")
        documented[name] = " ".join(text.split())
    missing = [f.name for f in dataclasses.fields(config) if f.name not in documented]
    if missing:
        raise ValueError(f"{config.__name__}'s docstring says nothing of {', '.join(missing)}")
    return documented


def _own_flags() -> list[tuple[str, Any]]:
    """The flags that this program defines, not those of its libraries."""
    own = [
        flag
        for module, defined in flags.FLAGS.flags_by_module_dict().items()
        if "experiments" in module
        for flag in defined
    ]
    if "config" in flags.FLAGS:
        own.append(flags.FLAGS["config"])
    return sorted({flag.name: flag for flag in own if "." not in flag.name}.items())


def _item(name: str, value: Any, said: str) -> str:
    shown = ",".join(value) if isinstance(value, list) else value
    value = f"={shown}" if value is not None else ""
    text = textwrap.wrap(" ".join(said.split()), _LISTED - 6)
    return "\n".join([f"  {name}{value}", *(f"      {line}" for line in text)])
