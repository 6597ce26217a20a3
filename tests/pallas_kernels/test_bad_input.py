"""What `fused_scan` refuses before it compiles anything, and how it says so."""

import re

import jax.numpy as jnp
import pytest

from pallas_kernels import fused_scan


def step(consts, carry, x):
    return carry + x, x


def arrays(**changes):
    args = {
        "step": step,
        "consts": {"c": jnp.ones((2, 1, 8), jnp.float32)},
        "carry": jnp.ones((4, 8, 8), jnp.float32),
        "xs": jnp.ones((4, 3, 8, 8), jnp.float32),
    }
    return {**args, **changes}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"xs": ()}, "xs must have at least one leaf"),
        ({"xs": jnp.ones((4, 8, 8))}, "xs must have axes [G, N, rows, cols]"),
        ({"xs": jnp.ones((4, 0, 8, 8))}, "none empty; got shape (4, 0, 8, 8)"),
        ({"xs": jnp.ones((4, 3, 8, 8), jnp.int32)}, "xs must be floating-point"),
        ({"xs": [jnp.ones((4, 3, 8, 8)), jnp.ones((4, 2, 8, 8))]}, "xs[1] must begin with G = 4"),
        ({"carry": jnp.ones((3, 8, 8))}, "carry must begin with G = 4"),
        ({"carry": jnp.ones((4, 8))}, "carry must have axes [G, rows, cols]"),
        ({"consts": {"c": jnp.ones((3, 1, 8))}}, "consts['c'] must begin with a divisor of G = 4"),
        ({"step": lambda c, s, x: ((s, s), x)}, "step must return a carry of the structure"),
        ({"step": lambda c, s, x: (s[:4], x)}, "step must keep carry of shape (8, 8)"),
        ({"step": lambda c, s, x: (s.astype(jnp.bfloat16), x)}, "returns (8, 8) and bfloat16"),
        ({"step": lambda c, s, x: (s, x[0])}, "step must return 2-D floating-point arrays"),
        ({"implementation": "cuda"}, "implementation must be None, 'xla', 'mosaic_tpu'"),
        ({"interpret": True}, "interpret runs a kernel's body"),
        ({"checkpoint_every": 0}, "checkpoint_every must be a positive integer"),
        ({"groups_per_step": 1.5}, "groups_per_step must be a positive integer"),
        (
            {"saved_dtype": jnp.int8},
            "saved_dtype must be None or a floating-point dtype such as bfloat16, got int8",
        ),
        (
            {"saved_dtype": jnp.float64},
            "saved_dtype must be None or a dtype that float32, the dtype of carry, contains: "
            "float32 itself or a narrower one; got float64",
        ),
        (
            # As many bits, but none contains the other.
            {"carry": {"m": jnp.ones((4, 8, 8), jnp.bfloat16)}, "saved_dtype": jnp.float16},
            "a dtype that bfloat16, the dtype of carry['m'], contains",
        ),
    ],
)
def test_refused(changes, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        fused_scan(**arrays(**changes))
