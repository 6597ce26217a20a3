"""What a model answers: it reads a prompt of any length as a stream, and goes on greedily."""

from collections.abc import Sequence

from experiments.babilong.hidden_stories import Sample
from experiments.babilong.stories import Story
from titans_jax import Titans
from titans_jax.data import Tokenizer
from titans_jax.inference import GREEDY, generate, prefill


def is_right(answer: str, target: str, question: str, labels: Sequence[str]) -> bool:
    """Whether an answer is right, as BABILong has it.

    Of an answer only the first sentence counts. It is right if, of all words that answer any question of the task, it
    holds the right one and no other; words that the question itself holds do not count ("Where was the apple before
    the kitchen?").

    Args:
      answer: what a model said.
      target: the right word.
      question: what was asked.
      labels: all words that answer any question of the task.
    """
    said = answer.lower().split(".")[0].strip().split("\n")[0]
    asked = question.lower()
    held = {label for label in map(str.lower, labels) if label in said and label not in asked}
    return held == {target.lower()}


#: The most samples that are read together.
MOST = 16


def accuracy(
    model: Titans,
    tokenizer: Tokenizer,
    asked: Sequence[tuple[Story, Sample]],
    labels: Sequence[str],
    answer_tokens: int,
) -> float:
    """The fraction of samples whose answer is right.

    Args:
      model: the language model.
      tokenizer: its tokenizer.
      asked: stories, and the samples that hide them.
      labels: all words that answer any question of the task.
      answer_tokens: generated at most.
    """
    right = 0
    for start in range(0, len(asked), MOST):
        group = list(asked[start : start + MOST])
        said = answer(model, tokenizer, [sample for _, sample in group], answer_tokens)
        right += sum(
            is_right(text, story.answer, story.question, labels)
            for text, (story, _) in zip(said, group, strict=True)
        )
    return right / len(asked)


def answer(
    model: Titans, tokenizer: Tokenizer, samples: Sequence[Sample], answer_tokens: int
) -> list[str]:
    """What a model says after each prompt."""
    # Read piece by piece: a prompt may be longer than what the model sees at once.
    longest = max(sum(map(len, sample.prompt)) for sample in samples)
    full_attention = model.config.variant == "transformer" and model.config.window is None
    stream = prefill(
        model,
        [iter(sample.prompt) for sample in samples],
        max_length=longest + answer_tokens if full_attention else None,
    )
    tokens = generate(model, stream, answer_tokens, GREEDY).tokens
    return [tokenizer.decode(row).decode(errors="replace") for row in tokens]
