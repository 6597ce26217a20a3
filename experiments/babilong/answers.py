"""What a model answers: it reads a prompt of any length as a stream, and goes on greedily."""

from collections.abc import Sequence

from experiments.babilong.samples import Sample
from experiments.babilong.scoring import is_right
from experiments.babilong.stories import Story
from titans_jax import Titans
from titans_jax.data import Tokenizer
from titans_jax.inference import GREEDY, generate, prefill

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
