"""Both commands at toy size, what they leave, and how they refuse."""

import json

import jax
import numpy as np
import pytest
from flax import nnx

from experiments.genomics import pretrain, run
from experiments.genomics.cnn import GenomicCNN
from experiments.genomics.metrics import judge
from experiments.genomics.models import MATCHED, Size, language_model
from experiments.genomics.records import best_rate
from tests.experiments.genomics.toy_task import letters, write_table
from titans_jax.matching import count_parameters

SMALL = ("--dim=8", "--layers=1", "--batch_size=8")


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
    pretrain.main([f"--fasta={tmp_path / 'g.fa'}", f"--output={model}", "--steps=3", "--length=60",
                   "--variant=lmm", *SMALL])  # fmt: skip
    record = json.loads((model / "pretrain.json").read_text())
    assert record["pieces"] == {"train": 23, "valid": 1}
    assert record["frequencies_loss"] == pytest.approx(np.log(4), abs=0.1)
    assert 1.2 < record["valid_loss"] < 2.5

    write_table(tmp_path / "toy.csv")
    command = ["--task=toy", f"--data_dir={tmp_path}", f"--output={tmp_path}", "--models=cnn,pretrained",
               f"--pretrained={model}", "--rates=0.01", "--seeds=0,1", "--epochs=1", *SMALL]  # fmt: skip
    run.main([*command, "--max_minutes=0"])
    assert "the same command goes on" in capsys.readouterr().out
    run.main(command)
    content = json.loads((tmp_path / "toy.json").read_text())
    runs = content["runs"]
    assert [(r["model"], r["seed"]) for r in runs] == [
        (name, seed) for name in ("cnn", "pretrained") for seed in (0, 1)
    ]
    assert all(0 <= run["test"]["accuracy"] <= 1 for run in runs)
    assert runs[0]["epochs"] == 10
    page = (tmp_path / "toy.md").read_text()
    assert "A demonstration, not a reproduction" in page
    assert str(tmp_path) not in page
    assert f"{100 * np.mean([r['test']['accuracy'] for r in runs[2:]]):.1f} ± " in page
    assert (tmp_path / "toy.png").stat().st_size > 5000

    monkeypatch.setattr("experiments.genomics.study.fit", None)  # nothing is left to train
    run.main(command)
    with pytest.raises(SystemExit, match="holds trainings with another settings"):
        run.main([*command, "--epochs=2"])
    with pytest.raises(SystemExit, match=r"vocabulary of .* must be 12"):
        run.main([*command, "--keep_case", f"--output={tmp_path / 'b'}", "--models=pretrained"])


def test_hidden_nucleotides_at_toy_size(tmp_path):
    (tmp_path / "g.fa").write_text(">r\n" + "acgtN" * 40 + "\n")
    pretrain.main([f"--fasta={tmp_path / 'g.fa'}", f"--output={tmp_path / 'm'}", "--objective=masked",
                   "--steps=2", "--length=50", "--variant=transformer", "--keep_case", *SMALL])  # fmt: skip
    assert json.loads((tmp_path / "m" / "config.json").read_text())["vocab_size"] == 12


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--models=lstm"], "'lstm' is not one of lmm, cnn"),
        (["--models=pretrained"], "needs --pretrained"),
        (["--rates=0.1,x"], "--rates=0.1,x: must be numbers"),
        (["--rates=0"], "--rates=0: must be positive"),
        (["--seeds=1,1"], "none twice"),
    ],
)
def test_bad_flags(tmp_path, capsys, arguments, said):
    with pytest.raises(SystemExit):
        run.main(["--task=toy", f"--data_dir={tmp_path}", *arguments])
    assert said in capsys.readouterr().err


def test_bad_inputs_end_with_one_message(tmp_path):
    with pytest.raises(SystemExit, match="error: task 'toy': none of"):
        run.main(["--task=toy", f"--data_dir={tmp_path}"])
    write_table(tmp_path / "toy.csv")
    with pytest.raises(SystemExit, match="error: epochs must be a positive integer, got 0"):
        run.main(["--task=toy", f"--data_dir={tmp_path}", "--epochs=0"])
    (tmp_path / "g.fa").write_text(">r\nACGT\n>s\nAC-T\n")
    with pytest.raises(SystemExit, match=r"record 's': letter '-' at position 3"):
        pretrain.main([f"--fasta={tmp_path / 'g.fa'}", f"--output={tmp_path}"])
    (tmp_path / "g.fa").write_text(">r\nACGT\n")
    with pytest.raises(SystemExit, match="at least two pieces of 256 nucleotides"):
        pretrain.main([f"--fasta={tmp_path / 'g.fa'}", f"--output={tmp_path}"])


def test_pages_show_no_folder():
    given = ["--data_dir=/a", "--output", "/b", "--task=toy"]
    wanted = "python -m experiments.genomics.run --data_dir=DIR --output DIR --task=toy"
    assert run.command_line(given) == wanted


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


def test_judgement_and_choice():
    labels = np.array([0, 0, 1, 1])
    logits = np.log(np.array([[0.9, 0.1], [0.4, 0.6], [0.2, 0.8], [0.3, 0.7]]))
    found = judge(logits, labels)
    assert found["accuracy"] == 0.75
    assert found["mcc"] == pytest.approx(1 / np.sqrt(3))
    assert found["log_loss"] == pytest.approx(-np.log([0.9, 0.4, 0.8, 0.7]).mean())
    assert found["calibration_error"] == pytest.approx((0.1 + 0.6 + 0.2 + 0.3) / 4)
    runs = [{"model": "lmm", "rate": rate, "seed": seed, "selection": value}
            for rate, seed, value in ((1, 0, 0.5), (2, 0, 0.4), (3, 0, None), (1, 1, 0.1))]  # fmt: skip
    content = {"settings": {"seeds": [0, 1]}, "runs": runs}
    assert best_rate(content, "lmm") == 2
    assert best_rate(content, "cnn") is None
