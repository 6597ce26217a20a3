"""Both commands at toy size, what they leave, and how they refuse."""

import dataclasses
import json
from pathlib import Path

import jax
import numpy as np
import pytest
from flax import nnx

from experiments.comparison.page import page
from experiments.genomics import pretrain, run
from experiments.genomics.classifier_training import judge
from experiments.genomics.classifiers import MATCHED, Size, language_model
from experiments.genomics.cnn import GenomicCNN
from experiments.genomics.pretrain import PretrainConfig
from tests.experiments.genomics.toy_task import letters, write_table
from tests.experiments.test_command_line import command
from titans_jax import Titans
from titans_jax.inference import save_pretrained
from titans_jax.matching import count_parameters

RESULTS = Path(run.__file__).parents[1] / "results"
SMALL = {"dim": 8, "layers": 1, "batch_size": 8}


@pytest.fixture(autouse=True)
def _single_precision():
    with jax.enable_x64(False):
        yield


def test_the_commands_one_after_the_other(tmp_path, monkeypatch, capsys):
    """A language model is pretrained, fine-tuned beside a CNN, interrupted, and not trained twice."""
    generator = np.random.default_rng(3)
    records = (f">r{n}\n{letters(generator, 150)}\n" for n in range(8))
    (tmp_path / "g.fa").write_text("".join(records))
    model = tmp_path / "model"
    fasta = str(tmp_path / "g.fa")
    pretrain.pretrain(PretrainConfig(fasta, str(model), variant="lmm", steps=3, length=60, **SMALL))
    record = json.loads((model / "pretrain.json").read_text())
    assert record["pieces"] == {"train": 23, "valid": 1}
    assert record["frequencies_loss"] == pytest.approx(np.log(4), abs=0.1)
    assert 1.2 < record["valid_loss"] < 2.5

    write_table(tmp_path / "toy.csv")
    config = run.GenomicsConfig(
        task="toy", models=("cnn", "pretrained"), pretrained=str(model), rates=(0.01,), seeds=(0, 1), epochs=1,
        batch_size=8, dim=8,
    )  # fmt: skip
    work = tmp_path / "work"
    hurried = run.main(dataclasses.replace(config, max_minutes=1e-9), work, tmp_path)
    assert not hurried["complete"]
    assert "cnn rate 0.01 seed 0: left for another start" in capsys.readouterr().out
    results = run.main(config, work, tmp_path)
    assert results["complete"]
    assert {name: model["seeds"] for name, model in results["models"].items()} == {
        "cnn": [0, 1],
        "pretrained": [0, 1],
    }
    for found in results["models"].values():
        assert all(0 <= judged["accuracy"] <= 1 for judged in found["results"])
    assert results["config"]["epochs"] == {"cnn": 10, "pretrained": 1}
    text = page({"command": "c", **results}, "toy", run.REPORT)
    assert "A demonstration, not a reproduction" in text
    accuracies = [judged["accuracy"] for judged in results["models"]["pretrained"]["results"]]
    assert f"{100 * np.mean(accuracies):.1f} ± " in text
    assert run.REPORT.figure(results) is not None

    monkeypatch.setattr("experiments.genomics.run.fit", None)  # nothing is left to train
    assert run.main(config, work, tmp_path) == results
    with pytest.raises(ValueError, match=r"another result:\n  fit\.epochs: 1 there, 2 given"):
        run.main(dataclasses.replace(config, epochs=2), work, tmp_path)
    weights = next(model.glob("*.safetensors"))
    kept = weights.read_bytes()
    save_pretrained(Titans(language_model("lmm", 7, Size(8, 1)), rngs=nnx.Rngs(9)), model)
    assert weights.read_bytes() != kept
    with pytest.raises(ValueError, match=r"another result:\n  started_from: "):
        run.main(config, work, tmp_path)
    cased = dataclasses.replace(config, keep_case=True, models=("pretrained",))
    with pytest.raises(ValueError, match=r"vocabulary of .* must be 12"):
        run.main(cased, tmp_path / "b", tmp_path)
    write_table(tmp_path / "toy.csv", seed=1)  # other sequences under the same name
    with pytest.raises(ValueError, match=r"task\.sha256: "):
        run.main(dataclasses.replace(config, models=("cnn",)), work, tmp_path)


def test_hidden_nucleotides_at_toy_size(tmp_path):
    (tmp_path / "g.fa").write_text(">r\n" + "acgtN" * 40 + "\n")
    fasta, model = str(tmp_path / "g.fa"), str(tmp_path / "m")
    pretrain.pretrain(PretrainConfig(
        fasta, model, objective="masked", variant="transformer", steps=2, length=50, keep_case=True, **SMALL
    ))  # fmt: skip
    assert json.loads((tmp_path / "m" / "config.json").read_text())["vocab_size"] == 12


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"models": ("lstm",)}, "models must be one of .*'lmm', 'cnn'.*got 'lstm'"),
        ({"models": ("pretrained",)}, "pretrained must be the folder"),
        ({"rates": (0.0,)}, "rates must be a positive"),
        ({"seeds": (1, 1)}, "no value twice"),
        ({"task": ""}, "task must be a string that is not empty"),
    ],
)
def test_bad_flags(fields, said):
    with pytest.raises(ValueError, match=said):
        run.GenomicsConfig(**({"task": "toy"} | fields))


@pytest.mark.slow
def test_the_command_writes_to_its_workdir_and_refuses_in_one_line(tmp_path):
    write_table(tmp_path / "toy.csv")
    flags = ["--task=toy", f"--data_dir={tmp_path}", f"--workdir={tmp_path / 'work'}", "--models=cnn",
             "--rates=0.01", "--seeds=0", "--epochs=1"]  # fmt: skip
    before = {path: path.stat().st_mtime_ns for path in RESULTS.rglob("*")}
    done = command("experiments.genomics.run", *flags)
    assert done.returncode == 0, done.stderr
    text = (tmp_path / "work" / "toy.md").read_text()
    assert str(tmp_path) not in text
    assert "python -m experiments.genomics.run --task=toy --data_dir=DIR --models=cnn" in text
    assert (tmp_path / "work" / "toy.png").stat().st_size > 5000
    assert {path: path.stat().st_mtime_ns for path in RESULTS.rglob("*")} == before
    refused = command("experiments.genomics.run", *flags, "--rates=0.1,x")
    assert refused.returncode == 1
    assert refused.stderr.splitlines()[-1] == (
        "error: --rates=0.1,x: must be floats with commas between"
    )


def test_bad_inputs_end_with_one_message(tmp_path):
    config = run.GenomicsConfig(task="toy")
    with pytest.raises(FileNotFoundError, match="task 'toy': none of"):
        run.main(config, tmp_path / "work", tmp_path)
    write_table(tmp_path / "toy.csv")
    with pytest.raises(ValueError, match="epochs must be a positive integer, got 0"):
        run.main(dataclasses.replace(config, epochs=0), tmp_path / "work", tmp_path)
    (tmp_path / "g.fa").write_text(">r\nACGT\n>s\nAC-T\n")
    config = PretrainConfig(str(tmp_path / "g.fa"), str(tmp_path))
    with pytest.raises(ValueError, match=r"record 's': letter '-' at position 3"):
        pretrain.pretrain(config)
    (tmp_path / "g.fa").write_text(">r\nACGT\n")
    with pytest.raises(ValueError, match="at least two pieces of 256 nucleotides"):
        pretrain.pretrain(config)


def test_language_models_have_lmms_parameters():
    for size in (Size(), Size(64, 3)):
        wanted = count_parameters(language_model("lmm", 7, size))
        for name in MATCHED:
            assert abs(count_parameters(language_model(name, 7, size)) / wanted - 1) < 0.03


def test_cnn_is_the_published_one():
    model = GenomicCNN(5, 251, 2, rngs=nnx.Rngs(0))
    model.eval()
    tokens = jax.random.randint(jax.random.key(0), (3, 251), 0, 5)
    x = model.embedding[...][tokens]
    for kernel, norm in zip(model.filters, model.norms, strict=True):
        x = jax.lax.conv_general_dilated(
            x, kernel[...], (1,), "VALID", dimension_numbers=("NWC", "WIO", "NWC")
        )
        x = nnx.max_pool(nnx.relu(norm(x)), (2,), (2,))
    wanted = model.classifier(model.hidden(x.reshape(3, -1)))
    np.testing.assert_allclose(model.classify(tokens), wanted, atol=1e-5)
    assert x.shape == (3, 25, 4)
    with pytest.raises(ValueError, match="length must be at least 57"):
        GenomicCNN(5, 56, 2, rngs=nnx.Rngs(0))


def test_judgement():
    labels = np.array([0, 0, 1, 1])
    logits = np.log(np.array([[0.9, 0.1], [0.4, 0.6], [0.2, 0.8], [0.3, 0.7]]))
    found = judge(logits, labels)
    assert found["accuracy"] == 0.75
    assert found["mcc"] == pytest.approx(1 / np.sqrt(3))
    assert found["log_loss"] == pytest.approx(-np.log([0.9, 0.4, 0.8, 0.7]).mean())
    assert found["calibration_error"] == pytest.approx((0.1 + 0.6 + 0.2 + 0.3) / 4)
