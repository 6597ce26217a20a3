"""The memory shapes of the report, and what each costs at least."""

import dataclasses
from typing import get_args

from titans_jax.config import Variant
from titans_jax.presets import PRESETS, preset

#: Tokens of a sequence in every measured program: the cost of loading and storing a carry is spread over them.
LENGTH = 4096
#: Independent memories (batch x heads) in every measured program.
GROUPS = 8


@dataclasses.dataclass(frozen=True)
class MemoryShape:
    """One memory, as fields that a child process can be given.

    Attributes:
        d_head: features of a head.
        depth: layers of the memory network.
        expansion: hidden width over d_head; a memory of depth 1 has no hidden layer.
        chunk: tokens that share one gradient anchor.
    """

    d_head: int
    depth: int
    expansion: int
    chunk: int

    @property
    def chunks(self) -> int:
        """Chunks of a sequence."""
        return LENGTH // self.chunk

    def label(self) -> str:
        """Short, for tables and messages."""
        hidden = f", hidden {self.d_head * self.expansion}" if self.depth > 1 else ""
        return f"d_head {self.d_head}{hidden}, depth {self.depth}, chunk {self.chunk}"


def table_shapes() -> list[MemoryShape]:
    """d_head 64, 128, 256; depth 1 and 2; expansion 1, 2, 4 where there is a hidden layer; chunk 64, 128, 256."""
    return [
        MemoryShape(d_head, depth, expansion, chunk)
        for d_head in (64, 128, 256)
        for depth in (1, 2)
        for expansion in ((1,) if depth == 1 else (1, 2, 4))
        for chunk in (64, 128, 256)
    ]


def preset_shape(name: str) -> MemoryShape:
    """The memory of a preset of titans_jax, which is the same in all its variants.

    Raises:
        ValueError: for an unknown preset.
    """
    shapes = set()
    for variant in get_args(Variant):
        config = preset(name, variant)
        memory = config.memory
        shapes.add(
            MemoryShape(
                config.dim // memory.num_heads, memory.depth, memory.expansion, memory.chunk
            )
        )
    if len(shapes) != 1:
        raise ValueError(
            f"preset {name!r} has memories of several shapes: {sorted(map(str, shapes))}"
        )
    return shapes.pop()


__all__ = ["GROUPS", "LENGTH", "PRESETS", "MemoryShape", "preset_shape", "table_shapes"]
