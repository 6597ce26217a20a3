"""What a program compiles is kept for its next start.

The second start of a run would compile all over again. What XLA made is kept in the user's cache folder instead,
under a key of program, options, devices and versions (JAX's persistent compilation cache). --nocompilation_cache leaves
it out, as does JAX_ENABLE_COMPILATION_CACHE=0. Reports on compilers (compile_report, kernel_report) do without it.
"""

import sys

import jax
import platformdirs

#: What is kept at most; what was used longest ago goes first.
MOST_BYTES = 4 << 30


def keep_compiled() -> None:
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
