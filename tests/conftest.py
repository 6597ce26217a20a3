"""Settings that every test shares: the CPU in double precision, and few, unhurried hypothesis examples."""

import gc
import os

os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ["JAX_ENABLE_COMPILATION_CACHE"] = "false"  # programs write nothing into the user's cache

import jax
from hypothesis import HealthCheck, settings

# Equality is proved in float64; library code is explicit about every dtype and never notices.
jax.config.update("jax_enable_x64", True)
jax.config.update("jax_enable_compilation_cache", True)  # where a test says where to

# A new shape compiles anew, so examples are few and have no deadline. CI tries the same ones every time.
settings.register_profile(
    "dev", deadline=None, max_examples=10, suppress_health_check=[HealthCheck.too_slow]
)
settings.register_profile("ci", settings.get_profile("dev"), derandomize=True)
settings.load_profile("ci" if os.environ.get("CI") else "dev")

# Every compiled program maps memory of its own, and the kernel allows a process so many mappings (65,530 on most
# machines): past them the compiler crashes. Programs are let go well before, and compile again where they are needed.
MOST_MAPPINGS = 40_000


def pytest_runtest_teardown():
    """Counts the mappings after every test, where the system tells."""
    try:
        with open("/proc/self/maps", "rb") as file:
            mappings = sum(1 for _ in file)
    except OSError:
        return
    if mappings > MOST_MAPPINGS:
        jax.clear_caches()
        gc.collect()
