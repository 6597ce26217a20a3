"""Questions, and the numbers made of likelihoods, worked out by hand."""

import json
import math

import pytest

from experiments.language_modeling.evaluate import answer, line, score
from experiments.language_modeling.likelihood import Likelihood
from experiments.language_modeling.questions import Question, Request, Task, find_tasks, read_task
from tests.experiments.language_modeling.toy_model import EVEN, LIKELY, Bigram
from titans_jax.data import ByteTokenizer


def choice(*continuations, label=0):
    return Question(tuple(Request("q", one) for one in continuations), label)


def found(*log_probabilities):
    return [Likelihood(value, False) for value in log_probabilities]


def test_choices_are_scored_as_a_whole_and_per_character():
    task = Task("t", "choice", (choice(" ab", " abcd"), choice(" a", " b", label=1)))
    metrics = score(task, [found(-3.0, -5.5), found(-2.0, -2.5)])
    # Per character the first is -1.5 against -1.375: the space before a choice is not counted, or it would win.
    assert metrics == {
        "questions": 2, "acc": 0.5, "acc_stderr": 0.5, "acc_norm": 0.0, "acc_norm_stderr": 0.0, "chance": 0.5,
    }  # fmt: skip


def test_words_need_every_token_and_have_a_perplexity():
    task = Task("t", "word", (choice(" a"), choice(" b"), choice(" c")))
    metrics = score(
        task, [[Likelihood(-1.0, True)], [Likelihood(-2.0, False)], [Likelihood(-3.0, False)]]
    )
    assert metrics["acc"] == pytest.approx(1 / 3)
    assert metrics["acc_stderr"] == pytest.approx(math.sqrt(2 / 9 * 3 / 2 / 3))
    assert metrics["perplexity"] == pytest.approx(math.exp(2))
    assert "chance" not in metrics


def test_a_partial_question_has_no_length_to_norm():
    question = Question((Request("the cup", " broke"), Request("the bed", " broke")), 1)
    metrics = score(Task("t", "partial", (question,)), [found(-1.0, -2.0)])
    assert metrics == {"questions": 1, "acc": 0.0, "acc_stderr": 0.0, "chance": 0.5}


def test_a_model_is_scored_from_text():
    # "b" after "a" is likelier than "c"; "cc" is likelier per character only if its second c made up for the first.
    task = Task("t", "choice", (Question((Request("a", "c"), Request("a", "b")), 1),))
    assert answer(Bigram(), ByteTokenizer(), task)["acc"] == 1
    word = Task("t", "word", (Question((Request("xa", "ba"),), 0),))
    metrics = answer(Bigram(), ByteTokenizer(), word)
    assert metrics["perplexity"] == pytest.approx(1 / (LIKELY * EVEN))
    assert line("t", metrics).split()[:3] == ["t", "1", "0.000"]


def write(path, *lines):
    path.write_text("".join(json.dumps(one) + "\n" for one in lines))


def test_files_are_read_by_what_they_hold(tmp_path):
    word = {"label": ["b"], "zero_shot": [["a", " b"]]}
    write(tmp_path / "word_test.jsonl", word, word, word, word)
    write(tmp_path / "pick.jsonl", {"label": 1, "zero_shot": [["q", " a"], ["q", " b"]]})
    write(tmp_path / "part.jsonl", {"label": 0, "zero_shot": [["x", " a"], ["y", " a"]]})
    kinds = {task.name: task.kind for task in find_tasks(tmp_path)}
    assert kinds == {"word_test": "word", "pick": "choice", "part": "partial"}
    (task,) = find_tasks(tmp_path, ["word"], limit=3)
    assert len(task.questions) == 3


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ([{"zero_shot": [["a", "b"], ["a", "c"]], "label": 2}], "line 1.*label=2 must be"),
        ([{"zero_shot": [["a", ""]], "label": 0}], "line 1.*not empty"),
        ([{"label": 0}], "line 1"),
        ([], "holds no question"),
        (
            [
                {"zero_shot": [["a", "b"]], "label": 0},
                {"zero_shot": [["a", "b"], ["a", "c"]], "label": 0},
            ],
            "several kinds",
        ),
    ],
)
def test_a_file_of_something_else_is_refused(tmp_path, lines, message):
    write(tmp_path / "bad.jsonl", *lines)
    with pytest.raises(ValueError, match=message):
        read_task(tmp_path / "bad.jsonl")


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no \*.jsonl file"):
        find_tasks(tmp_path)
    write(tmp_path / "piqa.jsonl", {"label": 0, "zero_shot": [["a", " b"]]})
    with pytest.raises(FileNotFoundError, match=r"'arc'.*piqa"):
        find_tasks(tmp_path, ["arc"])
