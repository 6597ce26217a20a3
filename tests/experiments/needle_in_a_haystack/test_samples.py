"""Needles: the tasks' texts, places, lengths and answers, and what is refused."""

import random
import re
import uuid

import numpy as np
import pytest

from experiments.needle_in_a_haystack.needles import (
    DEPTHS,
    NOISE,
    TASKS,
    check_tokenizer,
    count_tokens,
    is_right,
    make_sample,
    noise,
    prose,
)
from titans_jax.data.tokenizers import ByteTokenizer

PROSE = prose(" ".join(f"Sentence {i} says {{nothing}}\nof use." for i in range(400)))
HAYSTACKS = {"single_1": noise(100), "single_2": PROSE, "single_3": PROSE}
BYTES = ByteTokenizer()


def sample(task, seed=0, length=1000):
    return make_sample(task, HAYSTACKS[task], length, BYTES, random.Random(seed))


@pytest.mark.parametrize("task", TASKS)
def test_the_prompt_holds_the_needle_and_asks_for_it(task):
    kind = "uuid" if task == "single_3" else "number"
    for seed in range(20):
        one = sample(task, seed)
        key = re.search(r"for ([^ ]+) is: ", one.needle).group(1)
        assert one.needle == f"One of the special magic {kind}s for {key} is: {one.value}."
        assert one.prompt.count(one.needle) == 1
        assert one.prompt.count(one.value) == 1
        assert one.answer == f" {one.value}"
        assert one.prompt.startswith(
            f"A special magic {kind} is hidden within the following text. Make sure to memorize it. "
            f"I will quiz you about the {kind} afterwards.\n"
        )
        assert one.prompt.endswith(
            f"\nWhat is the special magic {kind} for {key} mentioned in the provided text? "
            f"The special magic {kind} for {key} mentioned in the provided text is"
        )
        if task == "single_3":
            assert uuid.UUID(one.value).version == 4
        else:
            assert re.fullmatch(r"[1-9]\d{6}", one.value)


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("length", [512, 1000, 4096])
def test_the_length_is_filled_and_not_passed(task, length):
    for seed in range(5):
        one = sample(task, seed, length)
        used = count_tokens(one.prompt + one.answer, BYTES)
        longest = max(len(line) for line in HAYSTACKS[task].lines) + 1
        assert length - longest < used <= length


@pytest.mark.parametrize("task", TASKS)
def test_the_same_seed_gives_the_same_sample(task):
    assert sample(task, 3) == sample(task, 3)
    assert sample(task, 3) != sample(task, 4)


def test_noise_is_whole_lines_with_the_needle_on_one_of_its_own():
    one = sample("single_1")
    lines = one.prompt.split("\n")[1:-1]
    assert lines.count(NOISE) == len(lines) - 1
    assert lines.index(one.needle) == round(one.depth / 100 * (len(lines) - 1))


def test_places():
    noisy = [sample("single_1", seed).depth for seed in range(300)]
    assert 40 < np.mean(noisy) < 60
    assert (DEPTHS[0], DEPTHS[1], DEPTHS[-1], len(DEPTHS)) == (0, 3, 100, 40)
    for seed in range(30):  # the boundary just before the depth
        one = sample("single_2", seed, 4096)
        before = one.prompt.split(one.needle)[0].count("Sentence")
        total = one.prompt.count("Sentence")
        assert before in {int(depth / 100 * total) for depth in DEPTHS}


@pytest.mark.parametrize("task", TASKS)
def test_bare_is_a_key_and_its_value_among_lines_and_the_key_again(task):
    one = make_sample(task, HAYSTACKS[task], 400, BYTES, random.Random(0), bare=True)
    key = one.needle.removeprefix("for ").removesuffix(f" is: {one.value}.")
    assert key.count("-") >= 1
    assert one.needle in one.prompt
    assert one.prompt.endswith(f" for {key} is")
    assert "magic" not in one.prompt
    assert 300 < count_tokens(one.prompt + one.answer, BYTES) <= 400
    shortest = count_tokens(f"{one.needle} for {key} is {one.value}", BYTES)
    alone = make_sample(task, HAYSTACKS[task], shortest, BYTES, random.Random(0), bare=True)
    assert alone.prompt == f"{one.needle} for {key} is"


def test_any_case_and_any_surrounding_is_right():
    assert is_right(" it is AB12-cd. ", "ab12-CD")
    assert not is_right(" 123456", "1234567")


def test_a_haystack_or_length_that_is_too_short_is_refused():
    with pytest.raises(ValueError, match=r"3 lines are shorter than a context of 4096 tokens"):
        make_sample("single_1", noise(3), 4096, BYTES, random.Random(0))
    with pytest.raises(ValueError, match=r"200 tokens are too few for a needle of single_2"):
        sample("single_2", length=200)


def test_a_tokenizer_without_digits_is_refused():
    class Letters(ByteTokenizer):
        def decode(self, ids):
            return re.sub(rb"\d", b"?", super().decode(ids))

    check_tokenizer(BYTES)
    with pytest.raises(ValueError, match=r"cannot encode the needle .* gives back .*\?{5}"):
        check_tokenizer(Letters())
