"""Studies: what is trained, what is never repeated, what is refused, what is reported."""

import dataclasses
import fcntl
import json

import jax
import numpy as np
import pytest

from experiments.comparison import page, picture, run_study, study, trial
from experiments.comparison.trial import Trial, run_trial
from experiments.training.optimizer import make_optimizer
from tests.experiments.comparison.copying import Copying, models, settings


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A finished study: its folder and its results."""
    folder = tmp_path_factory.mktemp("study")
    with jax.enable_x64(False):
        return folder, run_study(Copying(), models(), settings(), folder)


@pytest.fixture(autouse=True)
def single_precision():
    with jax.enable_x64(False):
        yield


def trials(folder, name):
    """The records of a model's trials, by rate and seed."""
    found = [json.loads(path.read_text()) for path in (folder / name).rglob("record.json")]
    return {(t["config"]["learning_rate"], t["config"]["seed"]): t for t in found}


def test_every_rate_then_every_seed_at_the_best(finished):
    folder, results = finished
    assert results["complete"]
    for name, model in results["models"].items():
        best = min((0.01, 0.02), key=lambda rate: model["sweep"][f"rate {rate:g}"])
        assert model["best"] == f"rate {best:g}"
        found = trials(folder, name)
        assert set(found) == {(0.01, 0), (0.02, 0), (best, 1)}
        assert model["results"] == [found[best, seed]["results"] for seed in (0, 1)]
        at_best = [found[best, seed]["results"]["accuracy"]["here"] for seed in (0, 1)]
        mean, std = page.number(model, ("accuracy", "here"))
        assert mean == pytest.approx(np.mean(at_best))
        assert std == pytest.approx(np.std(at_best, ddof=1))
    one, two = (trials(folder, name) for name in ("one", "two"))
    shared = set(one) & set(two)
    assert {key: one[key]["curve"] for key in shared} == {key: two[key]["curve"] for key in shared}
    origin = results["origin"]
    every = [*one.values(), *two.values()]
    assert origin["trials"] == len(every) == 6
    assert origin["seconds"] == pytest.approx(sum(t["seconds"] for t in every))


def test_a_finished_model_lets_go_of_its_programs(finished, monkeypatch):
    """A process has 65,530 mappings, and a program some dozens: the fifteenth model of a study would find none."""
    forgotten = []
    monkeypatch.setattr(study, "forget_programs", lambda: forgotten.append(True))
    run_study(Copying(), models(), settings(), finished[0])
    assert len(forgotten) == len(models())
    trial._compiled(models()["one"], settings().optimizer, 6)
    trial.forget_programs()
    assert trial._compiled.cache_info().currsize == 0


def test_a_record_says_where_it_comes_from(finished):
    record = trials(finished[0], "one")[0.01, 0]
    assert record["config"]["steps"] == 6
    assert record["config"]["model"]["dim"] == 8
    assert record["config"]["task"] == {"name": "copying", "sequences": 4}
    assert record["versions"]["jax"] == jax.__version__
    assert record["parameters"] > 0
    assert record["seconds"] > 0
    assert record["cpu_seconds"] > 0
    assert record["machine"]
    assert len(record["commit"]) == 40 or record["commit"] == "unknown"
    assert [step for step, _ in record["curve"]] == [2, 4, 6]


def test_finished_trials_are_not_repeated(finished, monkeypatch):
    folder, results = finished
    monkeypatch.setattr(trial, "_train", None)
    assert run_study(Copying(), models(), settings(), folder) == results


def test_a_killed_trial_goes_on_and_ends_the_same(finished, tmp_path, monkeypatch):
    whole = trials(finished[0], "one")[0.01, 0]
    one = Trial("one", models()["one"], 0.01, 0, settings())

    class Killed(Exception):
        pass

    class Dies(Copying):
        def batch(self, index, seed):
            if index == 5:
                raise Killed
            return super().batch(index, seed)

    with pytest.raises(Killed):
        run_trial(one, Dies(), tmp_path)
    assert not (one.folder(tmp_path) / "record.json").exists()
    task = Copying()
    record = run_trial(one, task, tmp_path)
    assert min(index for index, seed in task.drawn if seed == 0) == 4  # after the checkpoint
    assert record["curve"] == whole["curve"]
    assert record["results"] == whole["results"]


def test_a_trial_of_another_process_is_left_to_it(finished, tmp_path, capsys):
    """The other rate is tried meanwhile; when the other process has ended, the study goes on."""
    folder = Trial("one", models()["one"], 0.01, 0, settings()).folder(tmp_path)
    folder.mkdir(parents=True)
    with (folder / "lock").open("w") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        results = run_study(Copying(), {"one": models()["one"]}, settings(), tmp_path)
        assert "one rate 0.01 seed 0: another process is at it" in capsys.readouterr().out
        assert not results["complete"]
        assert results["models"] == {}
        assert not (folder / "config.json").exists()
        assert (tmp_path / "one" / "rate_0.02" / "seed_0" / "record.json").exists()
    results = run_study(Copying(), {"one": models()["one"]}, settings(), tmp_path)
    assert results["complete"]
    here, there = trials(tmp_path, "one"), trials(finished[0], "one")
    assert {key: t["curve"] for key, t in here.items()} == {
        key: t["curve"] for key, t in there.items()
    }


def test_the_rate_is_adamws(finished):
    """A step at rate r is AdamW's own with that rate, weight decay included."""
    config = settings().optimizer
    base = dataclasses.replace(config, learning_rate=1.0)
    scaled = trial._compiled(models()["one"], base, 6).optimizer
    own = make_optimizer(dataclasses.replace(config, learning_rate=0.02), 6)
    params = {"kernel": jax.numpy.linspace(-1, 1, 12).reshape(3, 4)}
    state, own_state = scaled.init(params), own.init(params)
    state[1].hyperparams["step_size"] = jax.numpy.float32(0.02)
    for scale in (1.0, -2.0, 0.3):
        grads = {"kernel": scale * (params["kernel"] + 0.1)}
        updates, state = scaled.update(grads, state, params)
        expected, own_state = own.update(grads, own_state, params)
        np.testing.assert_allclose(updates["kernel"], expected["kernel"], rtol=1e-5)


def test_another_task_in_the_folder_is_refused_before_training(finished, monkeypatch):
    folder, _ = finished
    monkeypatch.setattr(study, "run_trial", lambda *_: pytest.fail("trained"))
    with pytest.raises(ValueError, match=r"task\.sequences: 4 there, 8 given"):
        run_study(Copying(8), models(), settings(), folder)
    with pytest.raises(ValueError, match=r"model\.feed_forward: 8 there, 16 given"):
        run_study(Copying(), models(16), settings(), folder)


def test_unequal_models_are_refused(tmp_path):
    two = {"small": models()["one"], "large": models(feed_forward=64)["one"]}
    with pytest.raises(ValueError, match=r"within study\.tolerance=0\.03 of small's .* off: large"):
        run_study(Copying(), two, settings(), tmp_path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"steps": 0}, "steps must be a positive integer, got 0"),
        ({"learning_rates": ()}, r"learning_rates must be .* got \(\)"),
        ({"learning_rates": (1e-3, -1.0)}, r"learning_rates must be a positive, .*, got -1\.0"),
        ({"seeds": (1, 1)}, r"seeds must be .*twice, got \(1, 1\)"),
        ({"max_hours": -1.0}, r"max_hours must be .*, got -1\.0"),
    ],
)
def test_settings_that_cannot_work(change, message):
    with pytest.raises(ValueError, match=message):
        settings(**change)


def test_a_training_that_diverges_is_recorded_and_the_study_goes_on(tmp_path):
    class Broken(Copying):
        def batch(self, index, seed):
            batch = super().batch(index, seed)
            return {**batch, "loss_mask": batch["loss_mask"] * np.float32(np.nan)}

    results = run_study(Broken(), {"one": models()["one"]}, settings(), tmp_path)
    model = results["models"]["one"]
    assert model["sweep"] == {"rate 0.01": None, "rate 0.02": None}
    assert model["best"] is None
    assert model["results"] == []
    assert results["complete"]
    assert json.loads(json.dumps(results)) == results
    assert page.entry(model, ["accuracy", "here"]) == "diverged"
    assert page.done(results) == {}


def test_no_time_left_says_what_is_missing(tmp_path, capsys):
    results = run_study(Copying(), models(), settings(max_hours=1e-9), tmp_path)
    assert not results["complete"]
    assert results["models"] == {}
    assert "one rate 0.01 seed 0: left for another start" in capsys.readouterr().out


def test_the_report_is_made_of_the_json_alone(finished, tmp_path):
    results = {"command": "python -m something", "copying": finished[1]}

    def body(results):
        study = results["copying"]
        cells = page.entry(study["models"]["one"], ["accuracy", "here"], 100, 1)
        return [*page.training_lines([study]), *page.sweep_table({"copying": study}), cells]

    def figure(results):
        drawn, axes = picture.panels(1, 1, "Copying")
        curve = {1.0: page.number(results["copying"]["models"]["one"], ("accuracy", "here"))}
        picture.curves(axes[0][0], [(curve, picture.look("one"))])
        return drawn

    report = page.Report(lambda _: "Copying", body, figure)
    page.write_results(results, tmp_path / "rate_0.5", report)
    text = (tmp_path / "rate_0.5.md").read_text()
    assert text == page.page(
        json.loads((tmp_path / "rate_0.5.json").read_text()), "rate_0.5", report
    )
    model = finished[1]["models"]["one"]
    assert text.startswith("# Copying\n\nWritten by:\n\n    python -m something\n\n")
    assert "![Copying](rate_0.5.png)" in text
    assert f"{model['parameters']:,} parameters; 6 steps" in text
    assert f"**{min(v for v in model['sweep'].values()):.4f}**" in text
    mean, std = (100 * value for value in page.number(model, ("accuracy", "here")))
    assert f"{mean:.1f} ± {std:.1f}" in text
    assert (tmp_path / "rate_0.5.png").read_bytes().startswith(b"\x89PNG")


def test_pictures_are_of_few_lines_and_plain_names():
    names = [*page.TITLES, "mac_closed"]
    groups = picture.families(names)
    assert sorted(name for group in groups for name in group) == sorted(names)
    assert all(len(group) <= picture.MOST_LINES for group in groups)
    assert picture.look("mac_closed")["label"] == "MAC, writes start near zero"
    _, axes = picture.panels(1, 1, "")
    lines = [({1.0: (0.5, 0.1), 2.0: (0.6, None)}, {"label": str(n)}) for n in range(9)]
    picture.curves(axes[0][0], lines[:8])
    with pytest.raises(ValueError, match="at most 8 lines, got 9"):
        picture.curves(axes[0][0], lines)
    assert [picture._short(n) for n in (104, 1024, 1_000_000, 2**21)] == ["104", "1K", "1M", "2M"]
