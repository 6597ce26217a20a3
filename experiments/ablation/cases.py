"""The cases of the ablation: one change each to a base, all of the base's number of parameters."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

from titans_jax import TitansConfig
from titans_jax.fields import require
from titans_jax.matching import match_parameters

#: The paper's five components, without which Table 5 says a model is worse.
COMPONENTS = (
    "linear memory",
    "no convolution",
    "no momentum",
    "no forgetting",
    "no persistent memory",
)


def _memory(**changes: Any) -> Callable[[TitansConfig], TitansConfig]:
    def change(base: TitansConfig) -> TitansConfig:
        return dataclasses.replace(base, memory=dataclasses.replace(base.memory, **changes))

    return change


def _model(**changes: Any) -> Callable[[TitansConfig], TitansConfig]:
    return lambda base: dataclasses.replace(base, **changes)


#: name -> what it changes. "mlp" against "residual", "after" against "before": the base is the other side.
CHANGES: dict[str, Callable[[TitansConfig], TitansConfig]] = {
    "base": _model(),
    "linear memory": _memory(depth=1),
    "no convolution": _memory(conv_width=0),
    "no momentum": _memory(momentum=False),
    "no forgetting": _memory(forget=False),
    "no persistent memory": _model(persistent_tokens=0),
    "chunk-wise gates": _memory(gates="chunk"),
    "residual network": _memory(network="residual"),
    "read before": _memory(read="before"),
    "steps four times larger": lambda base: _memory(step_scale=4 * base.memory.step_scale)(base),
    "mac": _model(variant="mac"),
    "mag": _model(variant="mag"),
    "mal": _model(variant="mal"),
}


def make_cases(
    names: Sequence[str], chunks: Sequence[int], base: TitansConfig, field: str = "config.cases"
) -> dict[str, TitansConfig]:
    """The models by name: the named changes, then the base with each chunk size, "chunk 16" and so on.

    Args:
      names: of `CHANGES`.
      chunks: sizes; the base's own is left out.
      base: the model that is changed.
      field: where the names come from, for the error.

    Raises:
      ValueError: a name is unknown, or a size does not fit.
    """
    for name in names:
        require(name in CHANGES, field, name, f"one of {tuple(CHANGES)}")
    changed = {name: CHANGES[name](base) for name in names}
    for chunk in chunks:
        if chunk != base.memory.chunk:
            changed[f"chunk {chunk}"] = _memory(chunk=chunk)(base)
    return {name: match_parameters(model, base) for name, model in changed.items()}
