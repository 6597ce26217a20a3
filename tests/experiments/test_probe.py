"""The probe reports every layer, and a run with it, and with a profile, computes what one without does."""

import jax
import numpy as np
import pytest

from experiments import train as training
from experiments.training.config import MeshConfig
from experiments.training.mesh import make_layout
from experiments.training.probe import NAMES, as_record, make_probe
from experiments.training.step import init_params, split_model
from tests.experiments.tiny_run import tiny_config


def test_every_layer_reports_its_means(tmp_path):
    model = tiny_config(tmp_path, model__variant="lmm", model__num_layers=2).model
    graphdef, _ = split_model(model)
    layout = make_layout(MeshConfig(), jax.devices()[:1])
    tokens = np.arange(32, dtype=np.int32).reshape(2, 16)
    reset = np.zeros((2, 16), bool)
    with jax.set_mesh(layout.mesh):
        probe = make_probe(graphdef, layout.replicated)
        found = probe(init_params(model, 0), layout.share({"inputs": tokens, "reset": reset}))
    record = as_record(7, found)
    assert record.pop("step") == 7
    assert record.keys() == {
        f"memory/{layer}/{name}" for layer in (0, 1) for name in NAMES.values()
    }
    assert all(np.isfinite(x) and x > 0 for x in record.values())
    # As the gates' biases begin: momentum keeps a half, little is forgotten.
    assert record["memory/0/eta"] == pytest.approx(0.5, abs=0.05)
    assert record["memory/1/alpha"] == pytest.approx(2.5e-3, rel=0.2)


@pytest.mark.slow
def test_a_run_with_probe_and_profile_computes_the_same(tmp_path, capsys):
    losses = []
    for name, changes in {
        "plain": {"probe_every": 0},
        "watched": {"probe_every": 2, "profile_steps": "2:3"},
    }.items():
        config = tiny_config(tmp_path, steps=5, eval_every=0, model__variant="lmm", **changes)
        run = training.prepare(config, tmp_path / name)
        ((variant, model),) = run.models.items()
        trained = training.train(
            run.config, model, run.text, run.tokenizer, run.folder / variant, run.layout
        )
        losses.append([r["loss"] for r in trained.records if "loss" in r])
    assert losses[0] == losses[1]
    probed = [r["step"] for r in trained.records if "memory/0/norm_M" in r]
    assert probed == [2, 4]
    steps = [r["step"] for r in trained.records]
    assert steps == sorted(steps)
    assert not (tmp_path / "plain/profile").exists()
    said = capsys.readouterr().out  # the trace ends with its last step, not with the run
    assert 0 < said.index("profile: xprof --logdir") < said.rindex("step 4/5")
    assert len(list((tmp_path / "watched/profile").rglob("*.xplane.pb"))) == 1
