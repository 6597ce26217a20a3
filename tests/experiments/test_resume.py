"""N + M steps = N steps, stop, M steps, bit for bit: parameters, optimizer, data position, losses."""

import json

import jax
import numpy as np
import pytest
from jax.experimental.compilation_cache import compilation_cache
from orbax.checkpoint import v1 as ocp

from experiments import train as training
from experiments.training.metrics import MetricsLog
from tests.experiments.tiny_run import tiny_config


@pytest.fixture(autouse=True, scope="module")
def _compile_each_program_once(tmp_path_factory):
    # A restart compiles again what it compiled before; here it is read back.
    before = (
        jax.config.jax_compilation_cache_dir,
        jax.config.jax_persistent_cache_min_compile_time_secs,
    )
    jax.config.update("jax_compilation_cache_dir", str(tmp_path_factory.mktemp("programs")))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)
    compilation_cache.reset_cache()
    yield
    jax.config.update("jax_compilation_cache_dir", before[0])
    jax.config.update("jax_persistent_cache_min_compile_time_secs", before[1])
    compilation_cache.reset_cache()


class Stopped(Exception):
    """What a killed run looks like from inside."""


def run(config, folder, monkeypatch, stop_after=None):
    make = training.make_train_step
    if stop_after is not None:

        def make_stopping_step(*args):
            step, done = make(*args), 0

            def stopping(*inputs):
                nonlocal done
                if done == stop_after:
                    raise Stopped
                done += 1
                return step(*inputs)

            return stopping

        monkeypatch.setattr(training, "make_train_step", make_stopping_step)
    try:
        run = training.prepare(config, folder)
        ((name, model),) = run.models.items()
        return training.train(run.config, model, run.text, run.tokenizer, folder / name, run.layout)
    finally:
        monkeypatch.setattr(training, "make_train_step", make)


def losses(folder):
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    return [without_clock(json.loads(line)) for line in lines]


def without_clock(record):
    return {name: value for name, value in record.items() if name not in MetricsLog.CLOCKED}


@pytest.mark.parametrize(("variant", "accumulation"), [("transformer", 1), ("lmm", 2)])
def test_stopped_and_continued_equals_uninterrupted(variant, accumulation, tmp_path, monkeypatch):
    config = tiny_config(tmp_path, accumulation=accumulation, model__variant=variant)
    straight, broken = tmp_path / "straight", tmp_path / "broken"
    whole = run(config, straight, monkeypatch)
    with pytest.raises(Stopped):
        run(config, broken, monkeypatch, stop_after=5)  # one step past the checkpoint of step 4
    assert sorted(p.name for p in (broken / variant / "checkpoints").iterdir()) == ["2", "4"]
    parts = run(config, broken, monkeypatch)

    assert whole.valid_bpb == parts.valid_bpb
    assert losses(straight / variant) == losses(broken / variant)
    assert [r["step"] for r in losses(broken / variant) if "loss" in r] == [1, 2, 3, 4, 5, 6]
    items = {"params": None, "optimizer": None, "meta": None}
    loaded = [
        ocp.load_checkpointables(f / variant / "checkpoints/6", items) for f in (straight, broken)
    ]
    for item in ("params", "optimizer"):
        assert loaded[0][item].keys() == loaded[1][item].keys()
        for name, array in loaded[0][item].items():
            np.testing.assert_array_equal(array, loaded[1][item][name], err_msg=f"{item} {name}")
    assert loaded[0]["meta"] == loaded[1]["meta"]
    assert loaded[0]["meta"]["batches"] == 6


def test_finished_run_only_scores_again(tmp_path, monkeypatch):
    config = tiny_config(tmp_path, steps=2, model__variant="transformer")
    first = run(config, tmp_path / "run", monkeypatch)
    again = run(config, tmp_path / "run", monkeypatch, stop_after=0)
    assert first.valid_bpb == again.valid_bpb
    assert losses(tmp_path / "run/transformer") == [
        without_clock(record) for record in again.records
    ]


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"data__sequence_length": 4000}, "sequence_length"),
        ({"data__valid_fraction": 0.002}, "valid_fraction"),
        ({"data__packing": "documents", "data__sequence_length": 12}, "sequence_length=12"),
        ({"data__path": "nowhere/*.txt"}, r"config.data.path='nowhere/\*.txt'"),
        ({"data__tokenizer": "nowhere.model"}, "nowhere.model"),
    ],
)
def test_what_cannot_work_is_said_before_anything_compiles(change, named, tmp_path):
    with pytest.raises((ValueError, FileNotFoundError), match=named):
        training.prepare(tiny_config(tmp_path, **change), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_other_text_is_refused(tmp_path, monkeypatch):
    config = tiny_config(tmp_path, steps=2, model__variant="transformer")
    run(config, tmp_path / "run", monkeypatch)
    path = tmp_path / "words.txt"
    path.write_bytes(path.read_bytes().replace(b"surprises", b"surprised"))
    with pytest.raises(ValueError, match=r"belongs to something else: text: .* in the checkpoint"):
        run(config, tmp_path / "run", monkeypatch)


def test_fine_tuning_starts_with_the_other_run_and_continues_with_its_own(
    tmp_path, monkeypatch, capsys
):
    config = tiny_config(tmp_path, steps=2, model__variant="transformer")
    first = run(config, tmp_path / "first", monkeypatch)
    still = {"optimizer__learning_rate": 1e-30, "optimizer__weight_decay": 0.0, "seed": 7}
    config = tiny_config(
        tmp_path,
        steps=2,
        model__variant="transformer",
        restore_from=str(tmp_path / "first"),
        **still,
    )
    second = run(config, tmp_path / "second", monkeypatch)
    assert "first/transformer/checkpoints/2: " in capsys.readouterr().out
    jax.tree.map(np.testing.assert_array_equal, first.params, second.params)
    (tmp_path / "first").rename(tmp_path / "elsewhere")
    again = run(config, tmp_path / "second", monkeypatch, stop_after=0)
    assert again.valid_bpb == second.valid_bpb
    with pytest.raises(
        FileNotFoundError, match=r"config\.restore_from=.*first: no checkpoint there"
    ):
        training.prepare(config, tmp_path / "third")
    assert not (tmp_path / "third").exists()
