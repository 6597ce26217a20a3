"""The commands that use a trained model: read a text, keep the memory, question it later."""

import re
from pathlib import Path

import pytest
from flax import nnx

from experiments.train import execute, prepare
from experiments.training.trained import load_trained
from tests.experiments.test_command_line import command
from tests.experiments.tiny_run import tiny_config
from titans_jax import Titans, TitansConfig
from titans_jax.inference import load_memory, save_pretrained


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    folder = tmp_path_factory.mktemp("read")
    config = tiny_config(folder, model__variant="mag", baseline=False, steps=1)
    execute(prepare(config, folder / "run"))
    return folder / "run"


def test_a_workdir_is_named_as_a_shell_would(workdir, monkeypatch):
    monkeypatch.chdir(workdir.parent)
    assert load_trained(Path(workdir.name)).steps == 1


def test_a_folder_in_the_hugging_face_layout_is_no_run(tmp_path):
    model = Titans(TitansConfig(variant="lmm", dim=8, num_layers=1), rngs=nnx.Rngs(0))
    save_pretrained(model, tmp_path)
    with pytest.raises(
        ValueError, match=r"config\.json is a model's in the Hugging Face layout, not"
    ):
        load_trained(tmp_path)
    (tmp_path / "config.json").write_text('{"steps": 1, "model.dim": 8, "speed": 3}')
    with pytest.raises(ValueError, match=r"config\.json is not the config of a run .*speed"):
        load_trained(tmp_path)


@pytest.mark.slow
def test_a_text_is_read_once_and_questioned_later(workdir, tmp_path):
    book, memory = tmp_path / "book.txt", tmp_path / "book.safetensors"
    book.write_bytes(b"It was the best of times.\n" * 20)
    reading = command(
        "experiments.read", f"--workdir={workdir}", f"--input={book}", f"--save_memory={memory}"
    )
    assert reading.returncode == 0, reading.stderr
    assert re.search(r"\d\.\d{4} bits per byte of 520 bytes", reading.stdout)
    trained = load_trained(workdir)
    stream = load_memory(memory, trained.model)
    assert int(stream.length[0]) == 521

    question = ["experiments.sample", f"--memory={memory}", "--prompt=It was", "--length=9"]
    first, again = command(*question), command(*question)
    assert first.returncode == 0, first.stderr
    assert first.stdout.startswith("It was")
    assert first.stdout == again.stdout
    assert "mag after 1 steps; 9 tokens" in first.stderr


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["experiments.sample"], "give --workdir=DIR, the run to sample from, or --memory=FILE"),
        (["experiments.sample", "--memory=none"], "none"),
        (["experiments.sample", "--workdir=RUN", "--top_p=2"], "top_p must be above 0"),
        (["experiments.sample", "--workdir=RUN", "--stop=é"], "characters of one token each"),
        (["experiments.read", "--workdir=RUN", "--input=none"], "none"),
        (["experiments.read", "--workdir=RUN", "--input=RUN"], "is a folder; give one file"),
    ],
)
@pytest.mark.slow
def test_what_does_not_fit_is_one_line(workdir, flags, message):
    result = command(*[flag.replace("RUN", str(workdir)) for flag in flags])
    assert result.returncode != 0
    assert message in result.stderr
    assert "Traceback" not in result.stderr
