"""Checkpoints: damaged ones fall back to the one before, full disks harm none, and what is kept is kept."""

import resource
import shutil
import time
from pathlib import Path

import grain
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from orbax.checkpoint import v1 as ocp

from experiments.training.checkpoints import (
    CheckpointError,
    Checkpoints,
    check_identity,
    restore_params,
)
from experiments.training.checksums import checksums
from tests.experiments.tiny_run import tiny_config

IDENTITY = {"tokenizer": "abc"}


def trees(scale):
    # Incompressible, so that a flipped byte lies in the numbers themselves.
    kernel = np.random.default_rng(0).normal(size=(64, 64)).astype(np.float32)
    params = {"layers": {"kernel": jnp.asarray(scale * kernel)}}
    return params, (jnp.asarray(scale, jnp.int32), jax.tree.map(lambda x: 2 * x, params))


def batches(index=0, count=1):
    share = grain.MapDataset.range(100)[index::count]
    return iter(share.to_iter_dataset().batch(4 // count))


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


def remove_record(step: Path) -> None:
    shutil.rmtree(step / "meta")


def poor_record(step: Path) -> None:
    shutil.rmtree(step)
    ocp.save_checkpointables(step, {"params": {"a": jnp.ones(3)}, "meta": {"step": 2}})


def test_newest_comes_back_with_the_data_position(folder):
    step, params, opt_state, batch = restore(folder)
    wanted = trees(2)
    jax.tree.map(np.testing.assert_array_equal, (params, opt_state), wanted)
    assert step == 2
    assert batch.tolist() == [8, 9, 10, 11]


@pytest.mark.parametrize("damage", [flip_bytes, cut_file, remove_record, poor_record])
def test_damaged_newest_falls_back_and_keeps_everything(damage, folder, capsys):
    damage(folder / "2")
    files = {p.name: p.read_bytes() for p in (folder / "2").rglob("*") if p.is_file()}
    step, params, _, batch = restore(folder)
    assert step == 1
    np.testing.assert_array_equal(params["layers"]["kernel"], trees(1)[0]["layers"]["kernel"])
    assert batch.tolist() == [4, 5, 6, 7]
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
            CheckpointError, match=r"no checkpoint under .* can be read \(steps \[1, 2\]"
        ):
            restore(folder)
    assert sorted(p.name for p in folder.iterdir()) == ["1", "2"]


def test_another_tokenizer_is_refused(folder):
    with pytest.raises(CheckpointError, match="tokenizer: abc in the checkpoint, xyz now"):
        restore(folder, {"tokenizer": "xyz"})
    with pytest.raises(ValueError, match="tokenizer: abc in the checkpoint, xyz now"):
        check_identity(IDENTITY, {"tokenizer": "xyz"}, "here")


def test_no_checkpoint_to_sample_from(tmp_path):
    with pytest.raises(FileNotFoundError, match="train first"):
        restore_params(tmp_path / "none", trees(0)[0])
    assert not (tmp_path / "none").exists()


def test_another_model_is_refused_and_not_called_damaged(folder):
    params, _ = trees(0)
    with pytest.raises(
        CheckpointError, match=r"another model's params: only there \['layers/kernel'"
    ):
        restore_params(folder, {"layers": {"bias": params["layers"]["kernel"]}})


@pytest.mark.parametrize("index", [0, 1])
def test_data_goes_on_with_another_number_of_shares(index, folder):
    checkpoints = Checkpoints(folder, every=1, keep=3)
    data = batches(index, count=2)
    checkpoints.restore(*trees(0), data, IDENTITY)
    checkpoints.close()
    assert next(data).tolist() == [8 + index, 10 + index]


def test_newest_and_every_kth_are_kept(tmp_path):
    checkpoints = Checkpoints(tmp_path, every=1, keep=2, keep_every=3)
    data = batches()
    for step in range(1, 8):
        next(data)
        checkpoints.save(step, *trees(step), data, IDENTITY)
    checkpoints.close()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["3", "6", "7"]


def test_what_would_keep_nothing_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"config\.keep_every=3: must be a multiple of .*every=2"):
        tiny_config(tmp_path, checkpoint_every=2, keep_every=3)


@pytest.fixture
def small_files():
    """Returns a function after which no file may grow beyond a few kilobytes: the write itself fails."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    yield lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (4096, before[1]))
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_full_disk_is_said_and_harms_no_earlier_checkpoint(folder, small_files, capsys):
    before = {p: p.read_bytes() for p in folder.rglob("*") if p.is_file()}
    checkpoints = Checkpoints(folder, every=1, keep=2)

    def save():
        checkpoints.save(3, *trees(3), batches(), IDENTITY)
        for step in range(
            4, 1000
        ):  # it is written in the background; the next step that asks is told
            checkpoints.due(step)
            time.sleep(0.02)

    small_files()
    with pytest.raises(
        CheckpointError, match=r"3 could not be written \(.*Earlier checkpoints are"
    ):
        save()
    checkpoints.close()
    assert {p: p.read_bytes() for p in before} == before
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    assert restore(folder)[0] == 2  # there is room again: goes on from the newest, and tidies up
    assert "checkpoints/3" in capsys.readouterr().out
    assert sorted(p.name for p in folder.iterdir()) == ["1", "2"]


@pytest.mark.parametrize(
    "dtype", [np.float32, jnp.bfloat16, np.int32, np.float64, np.bool_, np.int8]
)
def test_checksum_sees_any_altered_and_any_exchanged_element(dtype):
    x = np.random.default_rng(0).permutation(60).reshape(3, 4, 5).astype(dtype)
    x[0, 0, 0], x[0, 0, 1] = 0, 1
    altered = []
    for position in np.ndindex(x.shape):
        y = x.copy()
        y[position] = not y[position] if dtype == np.bool_ else y[position] + np.ones((), dtype)
        altered.append(y)
    altered += [x.swapaxes(0, 1).reshape(x.shape), np.roll(x, 1)]
    sums = checksums({str(i): jnp.asarray(y) for i, y in enumerate([x, *altered, x])})
    assert sums["0"] == sums[str(len(altered) + 1)]
    assert sums["0"] not in [sums[str(i + 1)] for i in range(len(altered))]


def test_checksum_is_of_bits():
    sums = checksums({str(i): jnp.float32(x) for i, x in enumerate([0.0, -0.0, np.nan, np.nan])})
    assert sums["0"] != sums["1"]
    assert sums["2"] == sums["3"]
