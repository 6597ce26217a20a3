"""bAbI stories and BABILong samples: what they hold, where, and how long they are."""

import collections

import numpy as np
import pytest

from experiments.babilong.answers import is_right
from experiments.babilong.hidden_stories import (
    Prose,
    answer_tokens,
    make_sample,
    read_prose,
    shortest,
    split_sentences,
)
from experiments.babilong.stories import (
    Earlier,
    Story,
    exchanged,
    find_file,
    labels,
    read_stories,
)
from titans_jax.data import ByteTokenizer

BYTES = ByteTokenizer()
FILE = (
    "1 Mary moved to the bathroom.\n2 John went to the hallway.\n3 Where is Mary? \tbathroom\t1\n"
    "4 Mary left.\n5 Where is John? \thallway\t2\n1 Ann sat.\n2 Where is Ann?\tgarden\t1\n"
)
STORY = Story(("Mary moved.", "John went."), "Where is Mary?", "hall")


def prose(sentences=200):
    return Prose([" ".join(f"Sentence number {i} says little." for i in range(sentences))], BYTES)


def text(sample):
    return BYTES.decode(sample.tokens()).decode()


def test_a_question_is_asked_of_its_story_so_far(tmp_path):
    path = tmp_path / "qa1_x_train.txt"
    path.write_text(FILE)
    stories = read_stories(find_file(tmp_path, 1, "train"))
    told = ("Mary moved to the bathroom.", "John went to the hallway.")
    assert stories == [
        Story(told, "Where is Mary?", "bathroom"),
        Story(
            (*told, "Mary left."),
            "Where is John?",
            "hallway",
            (Earlier(2, "Where is Mary?", "bathroom"),),
        ),
        Story(("Ann sat.",), "Where is Ann?", "garden"),
    ]
    assert labels(stories) == ("bathroom", "garden", "hallway")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("Mary moved.\n", "line 1"),
        ("1 Where is Mary?\thall\n", "line 1.*statements"),
        ("", "no question"),
    ],
)
def test_a_file_of_something_else_is_refused(tmp_path, content, message):
    (tmp_path / "qa1_x_train.txt").write_text(content)
    with pytest.raises(ValueError, match=message):
        read_stories(tmp_path / "qa1_x_train.txt")


def test_missing_stories_are_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="qa2_"):
        find_file(tmp_path, 2, "test")


def test_without_background_a_prompt_is_the_story():
    sample = make_sample(STORY, prose(), 0, BYTES, np.random.default_rng(0))
    assert text(sample) == "\n Mary moved. John went.\nQuestion: Where is Mary?\nAnswer:"
    assert bytes(sample.answer.tolist()) == b" hall."


@pytest.mark.parametrize("length", [100, 1000, 5000])
def test_a_prompt_has_its_length_and_its_facts_in_order_between_whole_sentences(length):
    background = prose()
    for seed in range(20):
        sample = make_sample(STORY, background, length, BYTES, np.random.default_rng(seed))
        whole = text(sample)
        assert len(sample.tokens()) == length
        assert whole.endswith("\nQuestion: Where is Mary?\nAnswer:")
        assert whole.index(" Mary moved.") < whole.index(" John went.")
        without = whole.replace(" Mary moved.", "").replace(" John went.", "")
        kept = without[1 : without.index("\nQuestion")]
        assert kept in BYTES.decode(background.tokens).decode()
        for fact in STORY.facts:
            before = whole[: whole.index(" " + fact)]
            assert before == "\n" or before.endswith(".")


def test_facts_are_spread_evenly():
    background, length, places = prose(), 2000, []
    for seed in range(400):
        sample = make_sample(STORY, background, length, BYTES, np.random.default_rng(seed))
        places += [text(sample).index(fact) / length for fact in STORY.facts]
    # Sorted draws are together as uniform as the draws were.
    quarters = collections.Counter(min(3, int(4 * place)) for place in places)
    assert all(abs(quarters[n] / len(places) - 0.25) < 0.06 for n in range(4)), quarters


def test_lengths_that_cannot_be_are_refused(tmp_path):
    least = shortest(STORY, BYTES)
    assert (
        len(make_sample(STORY, prose(), least, BYTES, np.random.default_rng(0)).tokens()) == least
    )
    with pytest.raises(ValueError, match="story alone"):
        make_sample(STORY, prose(), least - 1, BYTES, np.random.default_rng(0))
    path = tmp_path / "book.txt"
    path.write_text("A short book. It ends.")
    with pytest.raises(ValueError, match=r"longer than the prose.*book\.txt"):
        read_prose([path], BYTES, 1000)


def test_sentences_end_where_the_next_begins():
    assert split_sentences('He said "Go." Then  he\nleft. 5 men came! e.g. two.') == [
        'He said "Go."',
        "Then he left.",
        "5 men came! e.g. two.",
    ]


def test_answers():
    assert bytes(answer_tokens(STORY, BYTES).tolist()) == b" hall."
    words = ("hall", "kitchen", "garden")
    assert is_right(" Hall.", "hall", "Where is Mary?", words)
    assert is_right(" the hall. The kitchen.", "hall", "Where is Mary?", words)
    assert not is_right(" hall or kitchen", "hall", "Where is Mary?", words)
    assert not is_right(" garden", "hall", "Where is Mary?", words)
    assert not is_right("", "hall", "Where is Mary?", words)
    assert is_right(" the hall, not the kitchen", "hall", "Where was it before the kitchen?", words)


def test_earlier_questions_stand_where_they_were_asked_with_their_answers():
    story = Story(
        (*STORY.facts, "Ann sat."), "Where is Ann?", "den", (Earlier(2, "Where is Mary?", "hall"),)
    )
    sample = make_sample(story, prose(), 400, BYTES, np.random.default_rng(0))
    assert len(sample.tokens()) == 400
    assert " John went.\nQuestion: Where is Mary?\nAnswer: hall." in text(sample)
    assert bytes(sample.tokens()[sample.answered].tolist()) == b" hall."
    assert not make_sample(
        story.alone(), prose(), 400, BYTES, np.random.default_rng(0)
    ).answered.size


def test_words_of_a_group_stand_for_each_other():
    story = Story(
        ("Mary went to the hall.", "Mary's den is small.", "Ann left the den."),
        "Where is Mary?",
        "hall",
        (Earlier(3, "Where was Ann?", "den"),),
    )
    seen = set()
    for seed in range(40):
        other = exchanged(story, (("Mary", "Ann"), ("hall", "den")), np.random.default_rng(seed))
        first, second = ("Mary", "Ann") if other.question == "Where is Mary?" else ("Ann", "Mary")
        one, two = ("hall", "den") if other.answer == "hall" else ("den", "hall")
        assert other == Story(
            (
                f"{first} went to the {one}.",
                f"{first}'s {two} is small.",
                f"{second} left the {two}.",
            ),
            f"Where is {first}?",
            one,
            (Earlier(3, f"Where was {second}?", two),),
        )
        seen.add(other)
    assert len(seen) == 4
    assert exchanged(story, (), np.random.default_rng(0)) == story
