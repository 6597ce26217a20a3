"""Fine-tuning: which parameters a checkpoint gives, and what is said of the others."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.training.checkpoints import CheckpointError, Checkpoints
from experiments.training.finetune import match, start_from
from experiments.training.workdir import open_workdir
from tests.experiments.test_checkpoints import IDENTITY, batches
from tests.experiments.tiny_run import tiny_config


def params(**shapes):
    names = {name: jnp.full(shape, i + 1.0) for i, (name, shape) in enumerate(shapes.items())}
    return {"layers": names}


@pytest.fixture
def run(tmp_path):
    config = tiny_config(tmp_path)
    open_workdir(tmp_path / "run", config)
    checkpoints = Checkpoints(tmp_path / "run/mac/checkpoints", every=1, keep=2)
    for step in (1, 2):
        saved = params(a=(40, 30), b=(3,), c=(2, 2))
        saved["layers"] = {name: step * x for name, x in saved["layers"].items()}
        checkpoints.save(
            step,
            saved,
            {"count": jnp.int32(step)},
            batches(),
            IDENTITY | {"text": "of the first run"},
        )
    checkpoints.close()
    return tmp_path / "run"


@pytest.mark.parametrize(
    ("source", "step"),
    [
        ("", 2),
        ("mac", 2),
        ("mac/checkpoints", 2),
        ("mac/checkpoints/2", 2),
        ("mac/checkpoints/1", 1),
    ],
)
def test_what_matches_comes_from_the_checkpoint(source, step, run, capsys):
    own = params(new=(7,), b=(3,), a=(40, 30))
    own["layers"]["b"] = own["layers"]["b"].astype(jnp.bfloat16)
    restored = start_from(match(run / source, own, IDENTITY), own)["layers"]
    assert list(restored) == ["a", "b", "new"]
    np.testing.assert_array_equal(restored["a"], np.full((40, 30), step * 1.0))
    np.testing.assert_array_equal(restored["b"], np.full((3,), step * 2.0))
    assert restored["b"].dtype == jnp.bfloat16
    np.testing.assert_array_equal(restored["new"], np.ones(7))
    said = capsys.readouterr().out
    assert f"checkpoints/{step}: 2 of 3 arrays, 1,203 of 1,210 parameters" in said
    lines = said[said.index("  matched") :].splitlines()
    assert [line.split()[0] for line in lines] == [
        "matched:", "layers/a", "layers/b", "missing", "layers/new", "unused,", "layers/c",
    ]  # fmt: skip


def test_a_source_is_named_as_a_shell_would(run, monkeypatch):
    monkeypatch.chdir(run.parent)
    own = params(a=(40, 30))
    assert start_from(match(run.name, own, IDENTITY), own).keys() == own.keys()


def test_other_shapes_are_named_together(run):
    own = params(a=(40, 31), b=(4,), c=(2, 2))
    with pytest.raises(ValueError, match="other shapes") as error:
        match(run, jax.eval_shape(lambda: own), IDENTITY)
    assert "layers/a: (40, 30) in the checkpoint, (40, 31) here" in str(error.value)
    assert "layers/b: (3,) in the checkpoint, (4,) here" in str(error.value)
    assert "layers/c" not in str(error.value)


def test_what_cannot_be_restored_is_said(run, tmp_path):
    with pytest.raises(ValueError, match=r"no parameter of .*/2 has the name"):
        match(run, params(x=(1,)), IDENTITY)
    with pytest.raises(CheckpointError, match="tokenizer: abc in the checkpoint, xyz now"):
        match(run, params(a=(40, 30)), {"tokenizer": "xyz"})
    with pytest.raises(FileNotFoundError, match="no checkpoint there; give the workdir of a run"):
        match(tmp_path / "nothing", params(a=(40, 30)), IDENTITY)


def test_damaged_numbers_are_not_used(run):
    found = match(run, params(a=(40, 30)), IDENTITY)
    own = params(a=(40, 30))
    wrong = found.record | {"checksums": {"params": dict.fromkeys(found.matched, 0)}}
    with pytest.raises(CheckpointError, match="layers/a is not what was saved"):
        start_from(found._replace(record=wrong), own)


def test_comparing_with_a_baseline_is_refused(tmp_path):
    config = tiny_config(tmp_path, restore_from="somewhere")
    with pytest.raises(ValueError, match=r"restore_from must be empty .*got 'somewhere'"):
        dataclasses.replace(config, baseline=True)
