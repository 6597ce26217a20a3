"""Needles as a task: batches, answers, what is refused before training, and the command at toy size."""

import dataclasses
import json

import numpy as np
import pytest

from experiments.language_modeling.likelihood import Likelihood
from experiments.needle_in_a_haystack.task import NeedleConfig, Needles
from tests.experiments.test_command_line import command

SMALL = NeedleConfig(
    train_lengths=(512,),
    batch_tokens=1024,
    selection_length=640,
    test_lengths=(512,),
    test_samples=2,
    test_batch=2,
)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    (folder / "text").mkdir()
    for name in ("train_1", "valid_1661"):
        text = " ".join(f"The {i}th sentence of {name} is short." for i in range(60))
        (folder / "text" / f"{name}.txt").write_text(text)
    return folder


def test_the_answer_counts_most_and_is_what_follows_the_prompt(data):
    task = Needles(data, SMALL)
    batch = task.batch(0, 0)
    assert batch["inputs"].shape == (2, 511)
    np.testing.assert_array_equal(batch["inputs"][:, 1:], batch["targets"][:, :-1])
    for targets, weights in zip(batch["targets"], batch["loss_mask"], strict=True):
        answer = bytes(targets[weights == 1].tolist()).decode()
        prompt = bytes(targets[weights == np.float32(0.02)].tolist()).decode()
        assert prompt.endswith(" mentioned in the provided text is")
        assert f" is:{answer}." in prompt
    again, other = task.batch(0, 0), task.batch(1, 0)
    np.testing.assert_array_equal(batch["inputs"], again["inputs"])
    assert (batch["inputs"] != other["inputs"]).any()
    assert (batch["inputs"] != task.batch(0, 1)["inputs"]).any()


def test_the_first_steps_are_bare_and_then_some(data):
    changes = {"bare_steps": 2, "bare_lengths": (256, 224), "tasks": ("single_1",)}
    task = Needles(data, dataclasses.replace(SMALL, context_weight=0.5, **changes))
    bare_then_all = ((True, 256), (True, 224), (False, 512), (True, 256), (True, 224), (False, 512))
    for step, (bare, length) in enumerate(bare_then_all):
        batch = task.batch(step, 0)
        assert batch["inputs"].shape == (1024 // length, length - 1)
        assert set(np.unique(batch["loss_mask"])) == {0, np.float32(0.02 if bare else 0.5), 1}
        text = bytes(batch["inputs"][0].tolist()).decode()
        assert " is: " in text
        for words in ("One of the special", " mentioned in the provided text", "I will quiz you"):
            assert (words in text) != bare


def test_training_never_reads_the_test_haystack(data):
    task = Needles(data, dataclasses.replace(SMALL, tasks=("single_2",)))
    text = bytes(task.batch(0, 0)["inputs"].ravel().tolist()).decode()
    assert "of train_1" in text
    assert "valid_1661" not in text


def test_accuracy_is_the_share_of_values_in_answers(data, monkeypatch):
    task = Needles(data, dataclasses.replace(SMALL, test_samples=4))
    answers = []

    def answer(model, samples, length):
        for one in samples:
            answers.append(f"xx{one.value.upper()}" if len(answers) < 3 else "nothing")
        return answers[-len(samples) :]

    monkeypatch.setattr(task, "_answers", answer)
    assert task.accuracy(None, "single_3", 512) == 0.75


def test_the_rate_is_chosen_by_training_prompts_of_the_selection_length(data, monkeypatch):
    task = Needles(data, dataclasses.replace(SMALL, tasks=("single_2",), test_lengths=(512,)))
    asked = []

    def score(model, encoded):
        asked.extend(bytes(one.ids.tolist()).decode() for one in encoded)
        return [Likelihood(-2.0, False) for _ in encoded]

    monkeypatch.setattr("experiments.needle_in_a_haystack.task.token_likelihoods", score)
    assert task._selection(None) == 2.0
    assert all("of train_1" in text and "valid_1661" not in text for text in asked)
    assert all(512 < len(text) <= 640 for text in asked)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"test_lengths": (8192,), "tasks": ("single_2",)}, "shorter than a context of 8192"),
        ({"train_lengths": (128,)}, "128 tokens are too few for a needle of single_1"),
        (
            {"bare_steps": 1, "bare_lengths": (32,)},
            "32 tokens are too few for a needle of single_1",
        ),
        ({"selection_length": 128}, "128 tokens are too few for a needle of single_1"),
        ({"test_prose": "text/none.txt"}, "none.txt"),
        ({"tokenizer": "none.model"}, "none.model"),
    ],
)
def test_bad_input_is_refused_before_training(data, change, message):
    with pytest.raises((ValueError, OSError), match=message):
        Needles(data, dataclasses.replace(SMALL, **change))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"tasks": ("single_9",)}, r"^tasks must be .*, got "),
        ({"selection_length": 0}, r"^selection_length must be .*, got "),
        ({"test_samples": 0}, r"^test_samples must be .*, got "),
        ({"batch_tokens": 16}, r"^batch_tokens must be .*, got "),
        ({"bare_steps": 500}, r"^bare_steps must be .*, got "),
        ({"bare_steps": 1}, r"^bare_lengths must be .*, got "),
        ({"context_weight": 2.0}, r"^context_weight must be .*, got "),
        ({"bare_context_weight": -0.5}, r"^bare_context_weight must be .*, got "),
    ],
)
def test_settings_that_cannot_work(change, message):
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(SMALL, **change)


@pytest.mark.slow
def test_the_command_at_toy_size(data, tmp_path):
    arguments = [
        f"--workdir={tmp_path}",
        f"--data_dir={data}",
        "--config.models=('lmm',)",
        "--config.tasks=('single_1',)",
        "--config.model.dim=8",
        "--config.model.num_layers=1",
        "--config.model.num_heads=1",
        "--config.model.memory.num_heads=1",
        "--config.model.feed_forward=16",
        "--config.bare_steps=1",
        "--config.bare_lengths=(256,)",
        "--config.train_lengths=(512,)",
        "--config.batch_tokens=512",
        "--config.selection_length=640",
        "--config.test_lengths=(512,)",
        "--config.test_samples=2",
        "--config.study.steps=2",
        "--config.study.seeds=(0,)",
        "--config.study.learning_rates=(0.01,)",
    ]
    result = command("experiments.needle_in_a_haystack.run", *arguments)
    assert result.returncode == 0, result.stderr
    results = json.loads((tmp_path / "results.json").read_text())
    (judged,) = results["study"]["models"]["lmm"]["results"]
    assert judged["accuracy"] == {"single_1": {"512": 0.0}}
    page = (tmp_path / "results.md").read_text()
    assert "| LMM | 0.0 |" in page
    assert (
        "Trained at 512 tokens (bytes), in turn with bare prompts (the key and its value, and the key again) of 256 "
        "tokens, which are alone for 1 steps" in page
    )
    assert "| MAC | 99.2 | 98.8 | 99.0 | 98.4 |" in page
    assert (tmp_path / "results.png").stat().st_size > 5000
