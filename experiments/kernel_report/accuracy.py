"""Error of the kernel against a float64 oracle, over the error of XLA at its default precision on the same inputs.

The oracle is the memory's step scanned in float64 on the same tokens (tests hold it to the token recurrence). XLA's
default is that step scanned with bfloat16 tokens and reads and a float32 state; the kernel is `fused_scan`'s TPU
kernel in interpret mode. In both, float32 products at default precision are computed as a TPU's matrix unit does
(rounding.py), because a CPU would compute them exactly. An error is the largest, over the compared arrays, of
|difference| / |oracle| in the Frobenius norm: forward of y and the final carry, backward of every gradient, of
tokens, gates and the first carry.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental.pallas import tpu as pltpu

from experiments.kernel_report import children
from experiments.kernel_report.programs import (
    SAVED_DTYPE,
    Inputs,
    abstract_inputs,
    kernel_scan,
    plain_scan,
)
from experiments.kernel_report.rounding import with_rounded_products
from experiments.kernel_report.shapes import MemoryShape
from pallas_kernels import fused_scan
from titans_jax.memory.gates import gates_from_logits

CHUNKS = 3
STEP_SCALE = 0.64


@dataclasses.dataclass(frozen=True)
class Errors:
    """Relative errors against the oracle, of one direction.

    Attributes:
        kernel: the kernel's.
        default: XLA's at its default precision.
    """

    kernel: float
    default: float

    @property
    def ratio(self) -> float:
        """The kernel's over XLA's."""
        return self.kernel / self.default


def errors(shape: MemoryShape, timeout: float) -> dict[str, Errors]:
    """Errors of "forward" and "backward" (module docstring), measured in a process of its own.

    Raises:
        children.ChildError: if there is no result within ``timeout`` seconds.
    """
    result = children.call(
        f"{__name__}:measure_errors",
        dataclasses.asdict(shape),
        timeout=timeout,
        environment={"JAX_PLATFORMS": "cpu", "JAX_ENABLE_X64": "true"},
    )
    return {direction: Errors(**found) for direction, found in result.items()}


def measure_errors(**fields: Any) -> dict[str, dict[str, float]]:
    """What `errors` runs in the child, in which x64 is enabled."""
    shape = MemoryShape(**fields)
    generator = np.random.default_rng(0)
    exact = _inputs(shape, generator)
    single = jax.tree.map(lambda x: x.astype(jnp.float32), exact)
    single = single._replace(**{name: getattr(single, name).astype(jnp.bfloat16) for name in "qkv"})

    def by_xla(inputs: Inputs) -> Any:
        scan = plain_scan(shape)
        consts, carry, xs = scan.arguments(inputs)
        (carry, _), y = jax.vmap(
            lambda c, x: jax.lax.scan(lambda c, x: scan.step(consts, c, x), c, x)
        )(carry, xs)
        return carry, y

    def by_kernel(inputs: Inputs) -> Any:
        scan = kernel_scan(shape)
        carry, y = fused_scan(
            with_rounded_products(scan.step),
            *scan.arguments(inputs),
            implementation="mosaic_tpu",
            saved_dtype=SAVED_DTYPE,
            step_vjp=with_rounded_products(_vjp_of(scan.step)),
            interpret=pltpu.InterpretParams(),
        )
        return carry[0], y

    cotangents = jax.tree.map(
        lambda x: jnp.asarray(generator.normal(size=x.shape)), jax.eval_shape(by_xla, exact)
    )
    oracle = jax.jit(_with_gradient(by_xla))(exact, cotangents)
    default = jax.jit(with_rounded_products(_with_gradient(by_xla)))(single, cotangents)
    kernel = jax.jit(_with_gradient(by_kernel))(single, cotangents)
    return {
        direction: {
            "kernel": _error(kernel[i], oracle[i]),
            "default": _error(default[i], oracle[i]),
        }
        for i, direction in enumerate(("forward", "backward"))
    }


def _with_gradient(fn: Callable[[Inputs], Any]) -> Callable[[Inputs, Any], tuple[Any, Inputs]]:
    def both(inputs: Inputs, cotangents: Any) -> tuple[Any, Inputs]:
        out, vjp = jax.vjp(fn, inputs)
        return out, vjp(jax.tree.map(lambda c, o: c.astype(o.dtype), cotangents, out))[0]

    return both


def _vjp_of(step: Callable[..., Any]) -> Callable[..., Any]:
    def step_vjp(consts: Any, carry: Any, x: Any, d_carry: Any, d_y: Any) -> Any:
        return jax.vjp(step, consts, carry, x)[1]((d_carry, d_y))

    return step_vjp


def _error(actual: Any, oracle: Any) -> float:
    """The largest relative error of any array."""
    pairs = zip(jax.tree.leaves(actual), jax.tree.leaves(oracle), strict=True)
    return max(
        float(jnp.linalg.norm((a.astype(jnp.float64) - o).ravel()) / jnp.linalg.norm(o.ravel()))
        for a, o in pairs
    )


def _inputs(shape: MemoryShape, generator: np.random.Generator) -> Inputs:
    """A trained layer's kind of inputs, float64: unit queries and keys, gates of sigmoids, tokens exact in bfloat16."""
    tiles = CHUNKS * shape.chunk // shape.tile
    tokens = (1, tiles, shape.tile, shape.d_head)

    def bfloat16(x: np.ndarray) -> jax.Array:
        return jnp.asarray(x).astype(jnp.bfloat16).astype(jnp.float64)

    def unit() -> jax.Array:
        x = generator.normal(size=tokens)
        return bfloat16(x / np.linalg.norm(x, axis=-1, keepdims=True))

    logits = generator.normal(size=(1, CHUNKS * shape.chunk, 3, 1))
    logits[:, :, :2] += np.array([-4.0, 1.0])[:, None]  # forgets little, keeps momentum
    gates = gates_from_logits(
        jnp.asarray(logits), step_size=STEP_SCALE / shape.chunk, momentum=True, forget=True
    )
    gates = jax.tree.map(lambda x: x.reshape(1, tiles, shape.tile), gates)
    weights, momentum = (
        tuple(
            jnp.asarray(scale * generator.normal(size=w.shape) / w.shape[-2] ** 0.5)
            for w in abstract_inputs(shape, groups=1).weights
        )
        for scale in (1.0, 0.1)
    )
    return Inputs(unit(), unit(), bfloat16(generator.normal(size=tokens)), gates, weights, momentum)
