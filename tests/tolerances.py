"""Every tolerance that tests use, and the one comparison of pytrees they use it with.

A tolerance bounds the absolute difference after dividing by max(1, largest reference value of that leaf): small
numbers are compared absolutely, large ones relative to their array's scale.
"""

from typing import Any

import jax
import numpy as np

# Outputs of two executions in float64: sums over a chunk in another order, through a few layers.
OUTPUT_F64 = 1e-9
# Final states (M, S) of two executions in float64: the same sums as the outputs.
STATE_F64 = 1e-9
# Gradients in float64: longer chains than the outputs, through exp of cumulative sums.
GRAD_F64 = 1e-7
# Analytic against central finite differences in float64: the truncation error dominates, not rounding.
NUMERICAL_GRAD_F64 = 1e-5
# Outputs in float32: about a hundred roundings of 6e-8.
OUTPUT_F32 = 1e-5
# Final states in float32.
STATE_F32 = 1e-5
# Gradients in float32: a longer chain than the outputs.
GRAD_F32 = 1e-4
# Outputs with bfloat16 activations (8 bits of mantissa, one rounding is 4e-3) against float32.
OUTPUT_BF16 = 3e-2
# Gradients with bfloat16 activations against float32.
GRAD_BF16 = 1e-1
# A fused scan against lax.scan in float32, gradients included: the same operations in another program. Optimised, the
# two agree to the last bit or nearly (1.5e-7). At the optimisation level of the suite XLA rounds the fusions of each
# program in their own way: either is up to 3.9e-6 from the float64 result, on every JAX supported, and 5.3e-6 apart.
FUSED_SCAN_F32 = 1e-5
# A fused scan with bfloat16 inputs against lax.scan with the same: a gradient is rounded to 8 bits once or twice.
FUSED_SCAN_BF16 = 1e-2
# Agreement with an independent implementation in float32.
PARITY_F32 = 1e-6
# Agreement with an independent implementation in float64.
PARITY_F64 = 1e-9


def assert_close(actual: Any, expected: Any, tolerance: float) -> None:
    """Fails unless two pytrees have one structure, equal shapes, and leaves that agree within `tolerance`.

    Args:
      actual: pytree of arrays under test.
      expected: pytree of reference arrays.
      tolerance: bound on |actual - expected| / max(1, max |expected|), leaf by leaf.

    Raises:
      AssertionError: names the worst leaf, its error, and where in the array it is.
    """
    actual_leaves, _ = jax.tree_util.tree_flatten_with_path(actual)
    expected_leaves, _ = jax.tree_util.tree_flatten_with_path(expected)
    structures: tuple[Any, Any] = (jax.tree.structure(actual), jax.tree.structure(expected))
    assert structures[0] == structures[1], f"structures differ:\n{structures[0]}\n{structures[1]}"
    worst_error, worst_message = -1.0, ""
    for (path, actual_leaf), (_, expected_leaf) in zip(actual_leaves, expected_leaves, strict=True):
        name = jax.tree_util.keystr(path) or "the array"
        a, e = (_as_comparable(leaf) for leaf in (actual_leaf, expected_leaf))
        assert a.shape == e.shape, f"{name}: shape {a.shape}, expected {e.shape}"
        if not e.size:
            continue
        assert np.isfinite(e).all(), f"{name}: the reference itself is not finite"
        error = np.abs(a - e) / max(1.0, float(np.abs(e).max()))
        error = np.where(np.isnan(error), np.inf, error)
        index = np.unravel_index(int(error.argmax()), error.shape)
        if error[index] > worst_error:
            worst_error = float(error[index])
            worst_message = (
                f"{name} at {tuple(map(int, index))}: {a[index]!r}, expected {e[index]!r}"
            )
    assert worst_error <= tolerance, f"error {worst_error:.3e} > {tolerance:.0e}; {worst_message}"


def _as_comparable(leaf: Any) -> np.ndarray:
    return np.asarray(leaf).astype(np.float64)
