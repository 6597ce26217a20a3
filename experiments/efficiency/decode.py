"""What a token of generation costs against its matmuls alone.

    python -m experiments.efficiency.decode

The `tiny` preset of every variant with a memory, greedy, one sequence, in the compiled loop of `titans_jax.inference`.
"Matmuls alone" is a compiled loop over the same products: every `dot_general` of one token's program that depends on
the token or the state, of the same shapes and with operands of its own, one after the other, each waiting for the one
before it. Both figures are the least of several repetitions, taken in turns. Both loops are compiled as
`experiments.sample` compiles its own (`single_kernel_loops`).
"""

import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from absl import flags
from flax import nnx
from jax.extend.core import Literal

from experiments import command
from experiments.jax_versions import scan_counts
from experiments.training.devices import single_kernel_loops
from pallas_kernels.fused_scan.jaxprs import called
from titans_jax import Titans, preset
from titans_jax.config import Variant
from titans_jax.inference import GREEDY, generate, prefill
from titans_jax.layers.cached_attention import decoding_state

VARIANTS: tuple[Variant, ...] = ("lmm", "mac", "mag", "mal")
#: Tokens of one measurement.
TOKENS = 512


def define_flags() -> None:
    """The program's flags."""
    flags.DEFINE_integer("repeat", 7, "measurements of each", lower_bound=1)
    flags.DEFINE_string("preset", "tiny", "a preset's name")


def main() -> None:
    """Prints one line per variant."""
    worst = 0.0
    for variant in VARIANTS:
        model = Titans(preset(flags.FLAGS.preset, variant), rngs=nnx.Rngs(0))
        dots = list(token_matmuls(model))
        token, matmuls = measure(model, dots, flags.FLAGS.repeat)
        worst = max(worst, token / matmuls)
        print(
            f"{variant}  {1e6 * token:7.1f} us per token  {1e6 * matmuls:7.1f} us for its {len(dots)} matmuls  "
            f"ratio {token / matmuls:.2f}",
            flush=True,
        )
    print(f"worst_ratio={worst:.2f}")


def token_matmuls(model: Titans) -> Iterator[Any]:
    """Every matmul equation of one token's program; those of the loop over layers once per layer."""
    graphdef, params = nnx.split(model)

    def start() -> Any:
        layers = nnx.merge(graphdef, params).init_state(1)
        return jax.vmap(lambda state: decoding_state(state, model.config.rope_base))(layers)

    state = jax.eval_shape(start)
    token = jax.ShapeDtypeStruct((1, 1), jnp.int32)

    def step(params: Any, token: Any, state: Any) -> Any:
        model = nnx.merge(graphdef, params)
        x, after = model.blocks(model.embed(token), state)
        return model.logits(x), after

    jaxpr = jax.make_jaxpr(step)(params, token, state).jaxpr
    fixed = len(jax.tree.leaves(params))
    found: list[Any] = []
    _walk(jaxpr, [i >= fixed for i in range(len(jaxpr.invars))], 1, found)
    yield from found


def _walk(jaxpr: Any, varies: Sequence[bool], times: int, found: list[Any]) -> list[bool]:
    """Appends the matmuls whose operands vary with the token; returns which outputs vary."""
    varying = {v for v, flag in zip(jaxpr.invars, varies, strict=True) if flag}

    def of(variables: Any) -> list[bool]:
        return [not isinstance(v, Literal) and v in varying for v in variables]

    for eqn in jaxpr.eqns:
        inputs = of(eqn.invars)
        outputs = [any(inputs)] * len(eqn.outvars)
        inner = list(called(eqn))
        if eqn.primitive.name == "scan":
            _walk(
                inner[0], _scan_inputs(eqn, inner[0], inputs), times * eqn.params["length"], found
            )
        elif len(inner) == 1 and len(inner[0].invars) == len(inputs):
            outputs = _walk(inner[0], inputs, times, found)
        elif inner:
            for body in inner:
                _walk(body, [any(inputs)] * len(body.invars), times, found)
        elif eqn.primitive.name == "dot_general" and any(inputs):
            found += [eqn] * times
        varying.update(v for v, flag in zip(eqn.outvars, outputs, strict=True) if flag)
    return of(jaxpr.outvars)


def _scan_inputs(eqn: Any, body: Any, inputs: list[bool]) -> list[bool]:
    """Which inputs of a loop's body vary: a carry does that varies after any step."""
    first, carries = scan_counts(eqn.params)
    while True:
        outputs = _walk(body, inputs, 0, [])[:carries]
        after = list(inputs)
        for i, flag in enumerate(outputs):
            after[first + i] |= flag
        if after == inputs:
            return inputs
        inputs = after


def measure(model: Titans, dots: Sequence[Any], repeat: int) -> tuple[float, float]:
    """Seconds per token of generation, and of its matmuls."""
    stream = prefill(model, list(range(64)))

    def decode() -> None:
        nonlocal stream
        stream = jax.block_until_ready(generate(model, stream, TOKENS, GREEDY).stream)

    matmuls = _matmul_loop(dots)
    for run in (decode, matmuls):
        run()  # compiles
    seconds = [(_timed(decode), _timed(matmuls)) for _ in range(repeat)]
    token, alone = (min(column) / TOKENS for column in zip(*seconds, strict=True))
    return token, alone


def _matmul_loop(dots: Sequence[Any]) -> Callable[[], None]:
    operands = [
        tuple(jnp.full(v.aval.shape, 1e-3, v.aval.dtype) for v in eqn.invars) for eqn in dots
    ]

    @jax.jit
    def loop(operands: Any) -> jax.Array:
        def body(_: Any, before: jax.Array) -> jax.Array:
            for eqn, (left, right) in zip(dots, operands, strict=True):
                # The smaller operand, a token's, depends on the product before.
                if left.size <= right.size:
                    left = left + before.astype(left.dtype)
                else:
                    right = right + before.astype(right.dtype)
                product = eqn.primitive.bind(left, right, **eqn.params)
                before = 1e-6 * product.reshape(-1)[0].astype(jnp.float32)
            return before

        return jax.lax.fori_loop(0, TOKENS, body, jnp.zeros((), jnp.float32))

    return lambda: jax.block_until_ready(loop(operands))


def _timed(run: Callable[[], None]) -> float:
    began = time.perf_counter()
    run()
    return time.perf_counter() - began


if __name__ == "__main__":
    single_kernel_loops()
    command.run(main, define_flags)
