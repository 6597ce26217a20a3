"""The grid: every token in its place, and back."""

import jax.numpy as jnp
import numpy as np
import pytest

from titans_jax.tiles.grid import completed_chunks, from_grid, grid_mask, make_grid, to_grid

BATCH = 3
# length, chunk, tile: dividing and not, one token, one chunk, a tile larger than the chunk.
SHAPES = [
    (12, 4, 2),
    (12, 4, 4),
    (11, 4, 3),
    (7, 5, 2),
    (1, 4, 4),
    (5, 1, 1),
    (3, 8, 16),
    (8, 8, 8),
]


def offsets(chunk, shifted):
    return jnp.asarray([0, chunk - 1, chunk // 2], jnp.int32) if shifted else None


@pytest.mark.parametrize(("length", "chunk", "tile"), SHAPES)
@pytest.mark.parametrize("shifted", [False, True])
def test_every_token_lies_at_its_place(length, chunk, tile, shifted):
    offset = offsets(chunk, shifted)
    grid = make_grid(length, chunk, tile, offset)
    tokens = np.arange(1, 1 + BATCH * length * 2).reshape(BATCH, length, 2)
    placed = np.asarray(to_grid(grid, jnp.asarray(tokens)))
    assert placed.shape == (grid.chunks * grid.tiles, BATCH, tile, 2)
    expected = np.zeros_like(placed)
    for b in range(BATCH):
        for t in range(length):
            at = t + (0 if offset is None else int(offset[b]))
            place = at % chunk
            expected[at // chunk * grid.tiles + place // tile, b, place % tile] = tokens[b, t]
    np.testing.assert_array_equal(placed, expected)
    np.testing.assert_array_equal(from_grid(grid, jnp.asarray(placed)), tokens)

    mask = grid_mask(grid, None, BATCH)
    assert (mask is None) == grid.full
    np.testing.assert_array_equal(
        np.ones_like(expected[..., 0], bool) if mask is None else mask, expected[..., 0] > 0
    )
    given = tokens[..., 0] % 3 > 0
    np.testing.assert_array_equal(
        grid_mask(grid, jnp.asarray(given), BATCH),
        (expected[..., 0] > 0) & (expected[..., 0] % 3 > 0),
    )


@pytest.mark.parametrize(("length", "chunk", "tile"), SHAPES)
@pytest.mark.parametrize("shifted", [False, True])
def test_completed_chunks_are_those_with_a_last_token(length, chunk, tile, shifted):
    offset = offsets(chunk, shifted)
    grid = make_grid(length, chunk, tile, offset)
    starts = [0] * BATCH if offset is None else offset.tolist()
    expected = [[start + length >= (n + 1) * chunk for start in starts] for n in range(grid.chunks)]
    np.testing.assert_array_equal(completed_chunks(grid, BATCH), expected)


def test_an_aligned_grid_is_as_small_as_can_be():
    assert make_grid(12, 4, 4, None).chunks == 3
    assert make_grid(13, 4, 4, None).chunks == 4
    assert make_grid(12, 4, 4, jnp.zeros(1, jnp.int32)).chunks == 4
    assert make_grid(1, 4, 4, jnp.zeros(1, jnp.int32)).chunks == 1
