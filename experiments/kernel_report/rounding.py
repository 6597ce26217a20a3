"""Runs a function with its matmuls as a TPU's matrix unit computes them, on a machine that has none.

At default precision a TPU rounds float32 operands of a product to bfloat16 and adds up the exact products in
float32: one pass through the matrix unit. A CPU multiplies float32 exactly, so errors measured there would flatter
whatever relies on the default. `with_rounded_products` evaluates a function's jaxpr, gradients and loops included,
and rounds the operands of every float32 product whose precision is the default.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.extend import core

from experiments.jax_versions import scan_counts

#: Primitives that only call a jaxpr, and the parameter that holds it.
_CALLS = {
    "jit": "jaxpr",
    "pjit": "jaxpr",
    "closed_call": "call_jaxpr",
    "core_call": "call_jaxpr",
    "remat2": "jaxpr",
    "checkpoint": "jaxpr",
    "custom_jvp_call": "call_jaxpr",
    "custom_vjp_call": "call_jaxpr",
}


def with_rounded_products(fn: Callable[..., Any]) -> Callable[..., Any]:
    """``fn`` with bfloat16 operands in every float32 product at default precision (module docstring).

    Take gradients inside ``fn``: what this returns is not the function to differentiate, because the products
    of its backward pass would then be exact.
    """

    def rounded(*arguments: Any) -> Any:
        closed, shape = jax.make_jaxpr(fn, return_shape=True)(*arguments)
        out = _evaluate(closed, jax.tree.leaves(arguments))
        return jax.tree.unflatten(jax.tree.structure(shape), out)

    return rounded


def _evaluate(closed: core.ClosedJaxpr, arguments: Sequence[Any]) -> list[Any]:
    jaxpr = closed.jaxpr
    values: dict[core.Var, Any] = {}

    def read(atom: Any) -> Any:
        return atom.val if isinstance(atom, core.Literal) else values[atom]

    values.update(zip(jaxpr.constvars, closed.consts, strict=True))
    values.update(zip(jaxpr.invars, arguments, strict=True))
    for equation in jaxpr.eqns:
        out = _apply(equation, [read(atom) for atom in equation.invars])
        values.update(zip(equation.outvars, out, strict=True))
    return [read(atom) for atom in jaxpr.outvars]


def _apply(equation: Any, inputs: list[Any]) -> Sequence[Any]:
    name, params = equation.primitive.name, equation.params
    if name == "dot_general":
        inputs = _rounded(inputs, params["precision"])
    elif name in _CALLS:
        return _evaluate(_closed(params[_CALLS[name]]), inputs)
    elif name == "scan":
        return _scan(params, inputs)
    elif name == "cond":
        branches = [_caller(branch) for branch in params["branches"]]
        return jax.lax.switch(inputs[0], branches, *inputs[1:])
    elif name == "while":
        return _while(params, inputs)
    out = equation.primitive.bind(*inputs, **equation.primitive.get_bind_params(params))
    return out if equation.primitive.multiple_results else [out]


def _rounded(operands: list[Any], precision: Any) -> list[Any]:
    default = jax.lax.Precision.DEFAULT
    if precision not in (None, default, (default, default)):
        return operands
    return [
        x.astype(jnp.bfloat16).astype(jnp.float32) if x.dtype == jnp.float32 else x
        for x in operands
    ]


def _closed(jaxpr: Any) -> core.ClosedJaxpr:
    return jaxpr if isinstance(jaxpr, core.ClosedJaxpr) else core.ClosedJaxpr(jaxpr, ())


def _caller(closed: core.ClosedJaxpr) -> Callable[..., Any]:
    return lambda *arguments: _evaluate(closed, arguments)


def _scan(params: dict[str, Any], inputs: list[Any]) -> Sequence[Any]:
    consts, carries = scan_counts(params)

    def body(carry: Any, x: Any) -> Any:
        out = _evaluate(params["jaxpr"], [*inputs[:consts], *carry, *x])
        return out[:carries], out[carries:]

    start, xs = inputs[consts : consts + carries], inputs[consts + carries :]
    carry, ys = jax.lax.scan(body, start, xs, length=params["length"], reverse=params["reverse"])
    return [*carry, *ys]


def _while(params: dict[str, Any], inputs: list[Any]) -> Sequence[Any]:
    tests, bodies = params["cond_nconsts"], params["body_nconsts"]
    for_test, for_body = inputs[:tests], inputs[tests : tests + bodies]
    return jax.lax.while_loop(
        lambda state: _evaluate(params["cond_jaxpr"], [*for_test, *state])[0],
        lambda state: _evaluate(params["body_jaxpr"], [*for_body, *state]),
        inputs[tests + bodies :],
    )
