"""What is known of a step before it is compiled, and its plain operations, from its jaxpr."""

from collections.abc import Callable, Iterator
from typing import Any

import jax
from jax.extend.core import ClosedJaxpr, Jaxpr, JaxprEqn, Literal

#: Primitives that only call a closed jaxpr, and the parameter that holds it.
CALLS = {
    "jit": "jaxpr",
    "closed_call": "call_jaxpr",
    "custom_jvp_call": "call_jaxpr",
    "custom_vjp_call": "call_jaxpr",
}


def called(eqn: JaxprEqn) -> Iterator[Jaxpr]:
    """Jaxprs that an equation calls."""
    for value in jax.tree.leaves(list(eqn.params.values()), is_leaf=_is_jaxpr):
        if isinstance(value, ClosedJaxpr):
            yield value.jaxpr
        elif isinstance(value, Jaxpr):
            yield value


def equations(jaxpr: Jaxpr) -> Iterator[JaxprEqn]:
    """All equations that compute something: calls are replaced by what they call."""
    for eqn in jaxpr.eqns:
        inner = list(called(eqn))
        if not inner:
            yield eqn
        for body in inner:
            yield from equations(body)


def _is_jaxpr(value: Any) -> bool:
    return isinstance(value, Jaxpr | ClosedJaxpr)


def without_custom_rules(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function as plain operations: Triton knows no ``custom_vjp``, and a kernel's body needs none.

    Args:
        function: of pytrees of arrays; what it returns is no longer differentiable by its own rules.
    """

    def plain(*args: Any) -> Any:
        closed, shapes = jax.make_jaxpr(function, return_shape=True)(*args)
        outputs = _evaluate(closed.jaxpr, closed.consts, jax.tree.leaves(args))
        return jax.tree.unflatten(jax.tree.structure(shapes), outputs)

    return plain


def _evaluate(jaxpr: Jaxpr, consts: list[Any], args: list[Any]) -> list[Any]:
    """Runs a jaxpr with the bodies of its calls in their place."""
    values = dict(zip((*jaxpr.constvars, *jaxpr.invars), (*consts, *args), strict=True))

    def read(v):
        return v.val if isinstance(v, Literal) else values[v]

    for eqn in jaxpr.eqns:
        inputs = [read(v) for v in eqn.invars]
        if eqn.primitive.name in CALLS:
            body = eqn.params[CALLS[eqn.primitive.name]]
            outputs = _evaluate(body.jaxpr, body.consts, inputs)
        else:
            outputs = eqn.primitive.bind(*inputs, **eqn.params)
            outputs = outputs if eqn.primitive.multiple_results else [outputs]
        values.update(zip(eqn.outvars, outputs, strict=True))
    return [read(v) for v in jaxpr.outvars]
