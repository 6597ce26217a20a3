"""How JAX and Flax know the library's NamedTuples: by name where `jax.export` writes, by field where Flax tabulates.

JAX takes any NamedTuple as it is, but does not write one that is not registered. `nnx.tabulate` (flax 0.12) takes every
tuple for one whose parts are known by numbers, and fails where they are known by names; the keys here are both.
"""

from __future__ import annotations

from typing import Any, TypeVar

import jax
from jax import export

T = TypeVar("T", bound=type)


class FieldKey(jax.tree_util.SequenceKey):
    """A field of a NamedTuple in a path: its place, and its name."""

    def __init__(self, place: int, name: str):
        super().__init__(place)
        self.name = name

    def __str__(self) -> str:
        return f".{self.name}"


def registered(cls: T) -> T:
    """Registers a NamedTuple of arrays that goes in or out of functions; a class decorator.

    Args:
        cls: the NamedTuple. Exported functions know it by its package and name, which must not change.

    Raises:
        ValueError: there is another of that name in its package.
    """
    fields: tuple[str, ...] = cls._fields  # type: ignore[attr-defined]
    keys = [FieldKey(place, name) for place, name in enumerate(fields)]

    def with_keys(node: Any) -> tuple[tuple[Any, ...], None]:
        return tuple(zip(keys, node, strict=True)), None

    def same_fields(written: bytes) -> None:
        if written.decode() != ",".join(fields):
            raise ValueError(
                f"the exported function takes a {cls.__name__} of {written.decode()}, here it is of "
                f"{','.join(fields)}: export it anew"
            )

    jax.tree_util.register_pytree_with_keys(
        cls, with_keys, lambda _, parts: cls(*parts), lambda node: (tuple(node), None)
    )
    export.register_pytree_node_serialization(
        cls,
        serialized_name=".".join([*cls.__module__.split(".")[:2], cls.__name__]),
        serialize_auxdata=lambda _: ",".join(fields).encode(),
        deserialize_auxdata=same_fields,
    )
    return cls


def path_name(path: tuple[Any, ...], separator: str) -> str:
    """A leaf's path with fields and keys by name, such as "memory/weights/0".

    Args:
        path: keys, from `jax.tree_util.tree_leaves_with_path`.
        separator: between them.
    """
    return separator.join(
        key.name if isinstance(key, FieldKey) else jax.tree_util.keystr((key,), simple=True)
        for key in path
    )
