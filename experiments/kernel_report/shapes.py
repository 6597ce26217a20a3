"""The memory shapes of the report, and what each costs at least."""

import dataclasses
from typing import get_args

from titans_jax.config import Variant
from titans_jax.memory.executions.tiled import LARGEST_FUSED_SOLVED_TILE, LARGEST_FUSED_TILE
from titans_jax.memory.rule import Anchor
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
        anchor: of the last layer, see `titans_jax.memory.Rule`.
    """

    d_head: int
    depth: int
    expansion: int
    chunk: int
    anchor: Anchor = "chunk"

    @property
    def tile(self) -> int:
        """Tokens of one step of the kernel: the whole chunk, as far as the memory's fused form takes it at once."""
        most = LARGEST_FUSED_TILE if self.anchor == "chunk" else LARGEST_FUSED_SOLVED_TILE
        return min(self.chunk, most)

    @property
    def tiles(self) -> int:
        """Tiles of a sequence."""
        return LENGTH // self.tile

    def label(self) -> str:
        """Short, for tables and messages."""
        hidden = f", hidden {self.d_head * self.expansion}" if self.depth > 1 else ""
        anchor = "" if self.anchor == "chunk" else f", anchor {self.anchor}"
        return f"d_head {self.d_head}{hidden}, depth {self.depth}, chunk {self.chunk}{anchor}"


def table_shapes() -> list[MemoryShape]:
    """d_head 64, 128, 256; depth 1 and 2; expansion 1, 2, 4 where there is a hidden layer; chunk 64, 128, 256."""
    return [
        MemoryShape(d_head, depth, expansion, chunk)
        for d_head in (64, 128, 256)
        for depth in (1, 2)
        for expansion in ((1,) if depth == 1 else (1, 2, 4))
        for chunk in (64, 128, 256)
    ]


def preset_shape(name: str, anchor: Anchor = "chunk") -> MemoryShape:
    """The memory of a preset of titans_jax, which is the same in all its variants.

    Args:
        name: of the preset.
        anchor: of the last layer, whatever the preset's is.

    Raises:
        ValueError: for an unknown preset.
    """
    shapes = set()
    for variant in get_args(Variant):
        config = preset(name, variant)
        memory = config.memory
        shapes.add(
            MemoryShape(
                config.dim // memory.num_heads,
                memory.depth,
                memory.expansion,
                memory.chunk,
                anchor,
            )
        )
    if len(shapes) != 1:
        raise ValueError(
            f"preset {name!r} has memories of several shapes: {sorted(map(str, shapes))}"
        )
    return shapes.pop()


__all__ = ["GROUPS", "LENGTH", "PRESETS", "MemoryShape", "preset_shape", "table_shapes"]
