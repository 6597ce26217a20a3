"""What a Pallas kernel moves between HBM and VMEM, counted from its block specs.

The pipeline copies a block when its index differs from the step's before, so the index maps are evaluated over the
whole grid, in order. Bytes are those of HBM's tiled layout: the last axis is padded to 128 lanes and the one before
it to the tile's rows, 8 for arrays of at least as many rows, so a column [R, 1] costs 128 times its numbers.
"""

import dataclasses
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend import core

from pallas_kernels.fused_scan.jaxprs import called

LANES, SUBLANES = 128, 8


@dataclasses.dataclass(frozen=True)
class Traffic:
    """One ``pallas_call``.

    Attributes:
        name: the kernel's.
        grid: its grid.
        read: HBM bytes that one call reads.
        written: and writes.
    """

    name: str
    grid: tuple[int, ...]
    read: int
    written: int

    @property
    def grid_steps(self) -> int:
        """Steps of the grid, of all cores together."""
        return int(np.prod(self.grid))


def traffic(jaxpr: core.Jaxpr) -> list[Traffic]:
    """Every ``pallas_call`` with block specs in a jaxpr, in program order."""
    return [_of_call(equation.params) for equation in _pallas_calls(jaxpr)]


def padded_bytes(shape: tuple[int, ...], dtype: Any) -> int:
    """Bytes of an array [..., rows, columns] in HBM's tiled layout."""
    *lead, rows, columns = (1, 1, *shape)
    item = jnp.dtype(dtype).itemsize
    # Few rows get a smaller tile, of a power of two of them; two bfloat16 rows share a 32-bit word.
    tile = max(4 // item, min(SUBLANES, 1 << (rows - 1).bit_length()))
    padded_rows, padded_columns = -(-rows // tile) * tile, -(-columns // LANES) * LANES
    return int(np.prod(lead)) * padded_rows * padded_columns * item


def _of_call(params: dict[str, Any]) -> Traffic:
    mapping = params["grid_mapping"]
    grid = tuple(int(size) for size in mapping.grid)
    moved = [_moved(block, grid) for block in mapping.block_mappings]
    inputs = mapping.num_inputs
    return Traffic(params["name"], grid, sum(moved[:inputs]), sum(moved[inputs:]))


def _moved(block: Any, grid: tuple[int, ...]) -> int:
    """Bytes of one operand's blocks over the whole grid."""
    sizes = tuple(getattr(size, "block_size", 1) or 1 for size in block.block_shape)
    points = np.indices(grid, dtype=np.int32).reshape(len(grid), -1)
    index_map = core.jaxpr_as_fun(block.index_map_jaxpr)
    indices = np.stack(
        [np.broadcast_to(axis, points.shape[1]) for axis in jax.jit(jax.vmap(index_map))(*points)]
    )
    copies = 1 + int((indices[:, 1:] != indices[:, :-1]).any(axis=0).sum())
    return copies * padded_bytes(sizes, block.array_aval.dtype)


def _pallas_calls(jaxpr: core.Jaxpr) -> Iterator[Any]:
    for equation in jaxpr.eqns:
        if equation.primitive.name == "pallas_call":
            yield equation
            continue
        for sub in called(equation):
            yield from _pallas_calls(sub)
