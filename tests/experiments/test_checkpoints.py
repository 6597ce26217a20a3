"""Damaged checkpoints fall back to the one before, say so, and delete nothing."""

from pathlib import Path

import grain
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.training.checkpoints import Checkpoints, check_identity, restore_params

IDENTITY = {"tokenizer": "abc"}


def trees(scale):
    # Incompressible, so that a flipped byte lies in the numbers themselves.
    kernel = np.random.default_rng(0).normal(size=(64, 64)).astype(np.float32)
    params = {"layers": {"kernel": jnp.asarray(scale * kernel)}}
    return params, (jnp.asarray(scale, jnp.int32), jax.tree.map(lambda x: 2 * x, params))


def batches():
    return iter(grain.MapDataset.range(100).to_iter_dataset().batch(2))


@pytest.fixture
def folder(tmp_path):
    checkpoints = Checkpoints(tmp_path / "checkpoints", every=1, keep=3)
    data = batches()
    for step in (1, 2):
        next(data)
        params, opt_state = trees(step)
        checkpoints.save(step, params, opt_state, data, IDENTITY)
    checkpoints.close()
    return tmp_path / "checkpoints"


def restore(folder, identity=IDENTITY):
    checkpoints = Checkpoints(folder, every=1, keep=3)
    data = batches()
    try:
        step, params, opt_state = checkpoints.restore(*trees(0), data, identity)
    finally:
        checkpoints.close()
    return step, params, opt_state, next(data)


def largest_file(folder: Path) -> Path:
    return max((p for p in folder.rglob("*") if p.is_file()), key=lambda p: p.stat().st_size)


def flip_bytes(step: Path) -> None:
    file = largest_file(step / "params")
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 255
    file.write_bytes(content)


def cut_file(step: Path) -> None:
    file = largest_file(step / "optimizer")
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def remove_position(step: Path) -> None:
    next((step / "data").glob("*.json")).unlink()


def test_newest_comes_back_with_the_data_position(folder):
    step, params, opt_state, batch = restore(folder)
    wanted = trees(2)
    jax.tree.map(np.testing.assert_array_equal, (params, opt_state), wanted)
    assert step == 2
    assert batch.tolist() == [4, 5]


@pytest.mark.parametrize("damage", [flip_bytes, cut_file, remove_position])
def test_damaged_newest_falls_back_and_keeps_everything(damage, folder, capsys):
    damage(folder / "2")
    files = {p.name: p.read_bytes() for p in (folder / "2").rglob("*") if p.is_file()}
    step, params, _, batch = restore(folder)
    assert step == 1
    np.testing.assert_array_equal(params["layers"]["kernel"], trees(1)[0]["layers"]["kernel"])
    assert batch.tolist() == [2, 3]
    assert "checkpoints/2 is damaged" in capsys.readouterr().out
    aside = folder.with_name("damaged") / "2"
    assert {p.name: p.read_bytes() for p in aside.rglob("*") if p.is_file()} == files


def test_sampling_falls_back_too_and_moves_nothing(folder, capsys):
    flip_bytes(folder / "2")
    step, params, identity = restore_params(folder, trees(0)[0])
    assert (step, identity) == (1, IDENTITY)
    np.testing.assert_array_equal(params["layers"]["kernel"], trees(1)[0]["layers"]["kernel"])
    assert "checkpoints/2 is damaged" in capsys.readouterr().out
    assert (folder / "2").is_dir()


def test_all_damaged_is_an_error(folder):
    flip_bytes(folder / "1")
    cut_file(folder / "2")
    for _ in range(2):  # an error again, not a new start
        with pytest.raises(
            ValueError, match=r"no checkpoint under .* can be read \(steps \[1, 2\]"
        ):
            restore(folder)
    assert sorted(p.name for p in folder.iterdir()) == ["1", "2"]


def test_another_tokenizer_is_refused(folder):
    with pytest.raises(ValueError, match="tokenizer: abc in the checkpoint, xyz now"):
        restore(folder, {"tokenizer": "xyz"})
    with pytest.raises(ValueError, match="tokenizer: abc in the checkpoint, xyz now"):
        check_identity(IDENTITY, {"tokenizer": "xyz"}, "here")


def test_no_checkpoint_to_sample_from(tmp_path):
    with pytest.raises(FileNotFoundError, match="train first"):
        restore_params(tmp_path / "none", trees(0)[0])
    assert not (tmp_path / "none").exists()
