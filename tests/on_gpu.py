"""For tests that need a GPU: they are skipped where JAX runs elsewhere, as in CI.

JAX_PLATFORMS=cuda python -m pytest tests -k on_gpu
"""

import jax
import pytest

needs_gpu = pytest.mark.skipif(jax.default_backend() != "gpu", reason="needs a GPU")
