"""Configs: misspelt fields, values that cannot work, and workdirs of another run."""

import dataclasses
import json
import math

import pytest

from experiments.training.config import (
    default_config,
    flatten,
    from_flat,
    parse_flags,
    train_config,
)
from experiments.training.workdir import MAY_CHANGE, open_workdir
from tests.experiments.tiny_run import tiny_config


@pytest.mark.parametrize(
    ("flag", "nearest"),
    [
        ("--config.model.varian=mag", "model.variant"),
        ("--config.stpes=3", "steps"),
        ("--config.learning_rate=1", "optimizer.learning_rate"),
    ],
)
def test_misspelt_field_names_the_nearest(flag, nearest, capsys):
    with pytest.raises(SystemExit) as stop:
        parse_flags(["train", "--config=experiments/configs/tiny.py", flag])
    assert stop.value.code == 2
    message = capsys.readouterr().err
    assert flag.split("=")[0] in message
    assert nearest in message


def test_missing_config_file_names_the_nearest(capsys):
    with pytest.raises(SystemExit):
        parse_flags(["train", "--config=experiments/configs/tinny.py"])
    assert "experiments/configs/tiny.py" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("steps", 0),
        ("accumulation", 3),
        ("keep_checkpoints", 1),
        ("optimizer.learning_rate", 0.0),
        ("optimizer.learning_rate", math.inf),
        ("optimizer.clip_norm", math.nan),
        ("seed", 2**32),
        ("model.memory.depth", 5),
        ("model.memory.step_scale", math.inf),
        ("model.memory.num_heads", 3),
        ("model.num_heads", 3),
        ("model.rope_base", math.inf),
        ("optimizer.beta2", 1.0),
        ("optimizer.warmup_fraction", -0.1),
        ("data.valid_fraction", 1.0),
        ("data.packing", "tight"),
        ("sample.temperature", -1.0),
        ("on_bad_step", "ignore"),
        ("spike_factor", 0.5),
        ("process_timeout", 0),
        ("profile_steps", "15:10"),
        ("profile_steps", "10"),
    ],
)
def test_value_that_cannot_work_is_named(field, value):
    config = default_config()
    config.update_from_flattened_dict({field: value})
    with pytest.raises(
        ValueError, match=f"^config.{field}={value!r}: must be ".replace(".", r"\.")
    ):
        train_config(config)


def test_optional_numbers_are_none_where_flags_say_zero():
    config = default_config()
    config.model.variant = "transformer"
    config.model.window = 0
    assert train_config(config).model.window is None


def test_flat_config_returns_unchanged(tmp_path):
    config = tiny_config(tmp_path)
    assert from_flat(json.loads(json.dumps(flatten(config)))) == config


def test_workdir_of_another_config_is_refused_with_both_values(tmp_path):
    config = tiny_config(tmp_path)
    open_workdir(tmp_path / "run", config)
    open_workdir(tmp_path / "run", config)
    other = dataclasses.replace(config, seed=7, batch_size=8)
    with pytest.raises(
        ValueError,
        match=r"(?s)config.batch_size: 4 in the workdir, 8 given.*config.seed: 0 .*7 given",
    ):
        open_workdir(tmp_path / "run", other)


def test_what_may_change_may_change_and_steps_only_grow(tmp_path):
    config = tiny_config(tmp_path)
    assert set(flatten(config)) > MAY_CHANGE
    open_workdir(tmp_path / "run", config)
    open_workdir(tmp_path / "run", dataclasses.replace(config, steps=8, log_every=1))
    with pytest.raises(ValueError, match=r"config.steps=6: .* was started with 8"):
        open_workdir(tmp_path / "run", config)
