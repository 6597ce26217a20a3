"""Training batches of BABILong, and the command at toy size."""

import json

import numpy as np
import pytest

from experiments.babilong.task import Babilong, BabilongConfig
from experiments.comparison import StudyConfig
from experiments.language_modeling.likelihood import Likelihood
from tests.experiments.test_command_line import command
from tests.experiments.toy_data import PLACES, SMALL, write_data

FIELDS = {
    "tokenizer": "bytes",
    "tasks": (1, 2),
    "exchange": (),
    "train_prose": "text/*.txt",
    "test_prose": ("text/valid_1661.txt",),
    "prose_steps": 1,
    "train_lengths": (128, 200),
    "batch_tokens": 400,
    "test_lengths": (0, 150),
    "test_samples": 2,
    "least_samples": 1,
    "stream_models": (),
    "stream_lengths": (),
}


def make_task(folder, **changes):
    return Babilong(write_data(folder / "data"), BabilongConfig(**(FIELDS | changes)), folder)


def test_prose_comes_first_then_answers_count_alone(tmp_path):
    task = make_task(tmp_path)
    assert task.batch(0, 0)["loss_mask"].all()
    for index, length in ((1, 200), (2, 128)):
        batch = task.batch(index, 0)
        assert len(batch["inputs"]) == 400 // length
        for inputs, targets, counts in zip(*batch.values(), strict=True):
            said = bytes(targets[counts].tolist()).decode()
            assert said[1:-1] in PLACES
            prompt = bytes(inputs[:length].tolist()).decode()
            assert prompt.endswith("\nQuestion: Where is Mary?\nAnswer:")
            assert f" Mary moved to the {said[1:-1]}." in prompt
            np.testing.assert_array_equal(inputs[1:], targets[:-1])
        again = task.batch(index, 0)
        np.testing.assert_array_equal(batch["inputs"], again["inputs"])
        assert (batch["inputs"] != task.batch(index, 1)["inputs"]).any()


def test_short_prompts_come_between_prose_and_the_others(tmp_path):
    task = make_task(tmp_path, short_steps=2, short_lengths=(80, 100), study=StudyConfig(steps=9))
    rows = [len(task.batch(index, 0)["inputs"]) for index in range(5)]
    assert rows == [400 // n for n in (128, 100, 80, 200, 128)]
    whole = [task.batch(index, 0)["loss_mask"].all() for index in range(5)]
    assert whole == [True, False, False, False, False]


def test_training_alone_exchanges_words(tmp_path, monkeypatch):
    task = make_task(tmp_path, exchange=BabilongConfig().exchange)
    names, places = map(set, BabilongConfig().exchange[:2])
    asked, said = set(), set()
    for index in range(1, 60):
        batch = task.batch(index, 0)
        for inputs, targets, counts in zip(*batch.values(), strict=True):
            answer = bytes(targets[counts].tolist()).decode()[1:-1]
            prompt = bytes(inputs.tolist()).decode()
            name = prompt.split("\nQuestion: Where is ")[1].split("?")[0]
            assert f" {name} moved to the {answer}." in prompt
            asked.add(name)
            said.add(answer)
    assert asked == names
    assert said == places
    judged = []
    monkeypatch.setattr(
        "experiments.babilong.task.token_likelihoods",
        lambda _, encoded: [judged.append(e) or Likelihood(-1.0, True) for e in encoded],
    )
    task._selection(None)
    texts = [bytes(one.ids.tolist()).decode() for one in judged]
    assert texts
    assert all("Where is Mary?" in text for text in texts)


def test_a_story_that_other_words_make_too_long_keeps_its_own(tmp_path):
    stories = make_task(tmp_path / "least").stories[1]
    least = max(stories.train[0][1], stories.valid[0][1])
    task = make_task(tmp_path, train_lengths=(least,), exchange=BabilongConfig().exchange)
    prompts = {
        bytes(row[:least].tolist()) for i in range(1, 20) for row in task.batch(i, 0)["inputs"]
    }
    assert any(b"Mary" in prompt for prompt in prompts)
    assert any(b"John" in prompt for prompt in prompts)


def test_no_test_prose_is_trained_on(tmp_path):
    task = make_task(tmp_path)
    words = task.test_prose.tokens.size
    assert task.prose.size > words
    assert task.describe()["prose_tokens"] == [task.prose.size, words]


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"test_lengths": (10**6,)}, ValueError, "longer than the prose"),
        ({"train_lengths": (40,)}, ValueError, "train_lengths"),
        ({"test_lengths": (40,)}, ValueError, "test_lengths"),
        ({"tasks": (7,)}, FileNotFoundError, "qa7_"),
        ({"train_prose": "none/*"}, FileNotFoundError, "none"),
        ({"short_lengths": (40,)}, ValueError, "short_lengths"),
        ({"short_steps": 1}, ValueError, "short_lengths must be not empty"),
        ({"short_steps": 499}, ValueError, "short_steps must be less than"),
        ({"tokenizer": "bpe:9"}, ValueError, "bpe:SIZE"),
        (
            {"exchange": (("den", "hall"), ("den", "hut"))},
            ValueError,
            "exchange must be no word twice",
        ),
    ],
)
def test_what_does_not_fit_is_refused_before_any_training(tmp_path, changes, error, message):
    with pytest.raises(error, match=message):
        make_task(tmp_path, **changes)


def test_an_encoding_is_trained_once(tmp_path):
    task = make_task(tmp_path, tokenizer="bpe:300", train_lengths=(100,), test_lengths=(0,))
    assert task.tokenizer.vocab_size == 300
    text = b" Mary moved to the kitchen."
    assert task.tokenizer.decode(task.tokenizer.encode(text)) == text
    assert len(task.tokenizer.encode(text)) < len(text)
    (tmp_path / "bpe_300.json").touch()
    again = make_task(tmp_path, tokenizer="bpe:300", train_lengths=(100,), test_lengths=(0,))
    assert again.describe() == task.describe()


@pytest.mark.slow
def test_a_study_and_its_streams_are_run_and_reported(tmp_path):
    data, work = write_data(tmp_path / "data"), tmp_path / "work"
    fields = (
        "models=('transformer_window',)", "tasks=(1,)", "stream_models=('transformer_window',)",
        "stream_lengths=(300,)", "stream_samples=2", "tokenizer=bytes", "prose_steps=1",
        "short_steps=0", "short_lengths=()",
        "train_lengths=(128,)", "batch_tokens=128",
        "test_lengths=(128,)", "test_samples=2", "least_samples=1", "test_prose=('text/valid_1661.txt',)",
        "study.seeds=(0,)",
    )  # fmt: skip
    flags = [f"--data_dir={data}", f"--workdir={work}", *SMALL, *(f"--config.{f}" for f in fields)]
    result = command("experiments.babilong.run", *flags)
    assert result.returncode == 0, result.stderr
    results = json.loads((work / "results.json").read_text())
    assert results["study"]["complete"]
    assert results["streams"]["rows"][0]["length"] == 300
    page = (work / "results.md").read_text()
    assert "| Transformer++, window | 300 | 2 |" in page
    assert (work / "results.png").stat().st_size > 5_000
