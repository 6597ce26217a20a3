"""Programs: any number of them can be imported together, and what one compiled the next start finds."""

import os
import subprocess
import sys

import pytest

ALL_IMPORTED = """
import importlib, pkgutil
from absl import flags
import experiments

for module in pkgutil.walk_packages(experiments.__path__, "experiments."):
    # Cells of notebooks are no modules; two programs need what the tests have not.
    if not module.name.startswith("experiments.notebooks.") and not module.name.endswith(
        ("efficiency.peer_worker", "language_modeling.harness")
    ):
        importlib.import_module(module.name)
defined = {name: flags.FLAGS.find_module_defining_flag(name) for name in flags.FLAGS}
print({name: module for name, module in defined.items() if module.startswith("experiments")})
"""
COMPILES = """
import jax
from experiments import command


def main():
    hits = []
    jax.monitoring.register_event_listener(lambda name, **_: hits.append(name))
    print(jax.jit(lambda x: 3 * x + 1)(2.0))
    print(hits.count("/jax/compilation_cache/cache_hits"))


command.run(main)
"""


def python(program, *arguments, **environment):
    done = subprocess.run(
        [sys.executable, "-c", program, *arguments],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout.splitlines()


def test_no_module_defines_flags_when_it_is_imported():
    """Two that have a flag of one name could not be imported in one process."""
    assert python(ALL_IMPORTED)[-1] == "{}"


def test_what_was_compiled_is_found_by_the_next_start(tmp_path):
    here = {"XDG_CACHE_HOME": str(tmp_path), "JAX_ENABLE_COMPILATION_CACHE": "true"}
    folder = tmp_path / "titans-jax"
    assert python(COMPILES, "--nocompilation_cache", **here) == ["7.0", "0"]
    assert not folder.exists()
    assert python(COMPILES, **here) == ["7.0", "0"]
    assert any((folder / "compiled").iterdir())
    value, hits = python(COMPILES, **here)
    assert value == "7.0"
    assert int(hits) > 0


@pytest.mark.parametrize(
    "environment",
    [{"JAX_COMPILATION_CACHE_DIR": "mine"}, {"JAX_ENABLE_COMPILATION_CACHE": "false"}],
)
def test_what_the_user_said_of_it_holds(tmp_path, environment):
    said = {name: str(tmp_path / v) if v == "mine" else v for name, v in environment.items()}
    here = {"XDG_CACHE_HOME": str(tmp_path), "JAX_ENABLE_COMPILATION_CACHE": "true"}
    python(COMPILES, **(here | said))
    assert not (tmp_path / "titans-jax").exists()
