"""How a program starts: its flags exist only then, and what it compiles is kept for its next start.

    if __name__ == "__main__":
        program.run(main, define_flags)

A module that defines flags when it is imported cannot share a process, such as a notebook's, with another that has
one of the same name. Programs that parse their arguments themselves begin with `keep_compiled`.

The second start of a run would compile all over again. What XLA made is kept in the user's cache folder instead,
under a key of program, options, devices and versions (JAX's persistent compilation cache). --nocompilation_cache leaves
it out, as does JAX_ENABLE_COMPILATION_CACHE=0. Reports on compilers (compile_report, kernel_report) do without it.
"""

import sys
from collections.abc import Callable, Sequence

import jax
import platformdirs
from absl import app, flags

from experiments.training.config import parse_flags

#: What is kept at most; what was used longest ago goes first.
MOST_BYTES = 4 << 30
_FLAG = "compilation_cache"


def run(
    main: Callable[[Sequence[str]], object],
    define_flags: Callable[[], object],
    flags_parser: Callable[[Sequence[str]], list[str]] = parse_flags,
) -> None:
    """Defines the flags, parses them and runs the program; does not return.

    Args:
      main: gets what is left of the arguments.
      define_flags: defines the program's own flags.
      flags_parser: see `absl.app.run`.
    """
    define_flags()
    flags.DEFINE_bool(_FLAG, True, "keep what is compiled in the user's cache folder")

    def start(argv: Sequence[str]) -> object:
        if flags.FLAGS[_FLAG].value:
            use_cache()
        return main(argv)

    app.run(start, flags_parser=flags_parser)


def keep_compiled(arguments: Sequence[str]) -> list[str]:
    """For a program that parses its arguments itself: turns the cache on.

    Args:
      arguments: of the program.

    Returns:
      The arguments without --nocompilation_cache, which leaves the cache off.
    """
    left = [argument for argument in arguments if argument != f"--no{_FLAG}"]
    if len(left) == len(arguments):
        use_cache()
    return left


def use_cache() -> None:
    """Keeps every program that is compiled from now on, unless JAX was told where to keep them, or not to."""
    if jax.config.jax_compilation_cache_dir or not jax.config.jax_enable_compilation_cache:
        return
    folder = platformdirs.user_cache_path("titans-jax") / "compiled"
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        print(f"compiled programs are not kept: {error}", file=sys.stderr, flush=True)
        return
    jax.config.update("jax_compilation_cache_dir", str(folder))
    jax.config.update("jax_compilation_cache_max_size", MOST_BYTES)
    # A run compiles many small programs beside its step; together they take as long.
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
