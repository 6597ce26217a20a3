"""Whether an answer is right, as BABILong has it.

Of an answer only the first sentence counts. It is right if, of all words that answer any question of the task, it
holds the right one and no other; words that the question itself holds do not count ("Where was the apple before the
kitchen?").
"""

from collections.abc import Sequence


def is_right(answer: str, target: str, question: str, labels: Sequence[str]) -> bool:
    """Whether an answer is right.

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
