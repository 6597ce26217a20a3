"""Word problems as a task: a token is a group element, the target at each place is the product so far.

Training goes in stages: first short words, then half as many twice as long, and so on up to `train_length`, so that
every step has the same number of elements. Tracking a state over many elements is learned from tracking it over few:
with all lengths mixed, an LMM on transpositions of five things is right at 37 per cent of 512 places after 400 steps.
Testing reads words of the longest length once: the model is causal, so its accuracy on shorter words is that on their
first elements.
"""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jaxtyping import Int

from experiments.comparison import StudyConfig
from experiments.comparison.config import SELECTION
from experiments.language_modeling.named_models import KNOWN, named
from experiments.state_tracking.word_problems import GROUPS, Group, group
from experiments.training.step import Batch
from titans_jax import Titans, TitansConfig
from titans_jax.fields import (
    check_fields,
    field,
    instance_of,
    one_of,
    positive_int,
    require,
    several,
)
from titans_jax.matching import match_parameters

#: Words are drawn from streams of their own: no training seed reaches these.
_VALIDATION, _TEST = 1_000_001, 1_000_002


@dataclasses.dataclass(frozen=True)
class StateTrackingConfig:
    """The task, apart from the group.

    Attributes:
      train_length: elements of the longest training words.
      shortest: elements of the first stage's words; `train_length` halved some times.
      stage_steps: steps of each stage but the last, which goes on.
      batch_elements: elements of a batch, whatever its words' length.
      test_lengths: where accuracy is reported, ascending.
      test_words: number of test words.
    """

    train_length: int = field(32, positive_int)
    shortest: int = field(4, positive_int)
    stage_steps: int = field(150, positive_int)
    batch_elements: int = field(2048, positive_int)
    test_lengths: tuple[int, ...] = field((32, 64, 128, 256, 512), several(positive_int))
    test_words: int = field(64, positive_int)

    def __post_init__(self) -> None:
        check_fields(self)
        most, least = self.train_length, self.shortest
        halved = most in _doublings(least, most)
        require(halved, "shortest", least, f"train_length = {most} halved some times")
        elements = self.batch_elements
        whole_words = elements % most == 0
        require(whole_words, "batch_elements", elements, f"a multiple of train_length = {most}")
        ascending = list(self.test_lengths) == sorted(set(self.test_lengths))
        require(ascending, "test_lengths", self.test_lengths, "ascending")


def _doublings(least: int, most: int) -> list[int]:
    return [least << n for n in range(most.bit_length()) if least << n <= most]


class StateTracking:
    """The word problem of one group (see `experiments.comparison.Task`)."""

    def __init__(self, group_name: str, config: StateTrackingConfig):
        """Makes the task.

        Args:
          group_name: one of `groups.GROUPS`.
          config: see `StateTrackingConfig`.
        """
        self.group: Group = group(group_name)
        self.config = config
        self.lengths = _doublings(config.shortest, config.train_length)

    @property
    def vocab_size(self) -> int:
        """Elements of the largest group: a model has one size whatever the group."""
        return max(group(name).order for name in GROUPS)

    def describe(self) -> dict[str, Any]:
        """The group's name and the config."""
        return {"group": self.group.name, **dataclasses.asdict(self.config)}

    def batch(self, index: int, seed: int) -> Batch:
        """Training batch `index` (see `experiments.comparison.Task`)."""
        stage = min(index // self.config.stage_steps, len(self.lengths) - 1)
        length = self.lengths[stage]
        rng = np.random.default_rng((seed, index))
        return self.words(rng, self.config.batch_elements // length, length)

    def words(self, rng: np.random.Generator, number: int, length: int) -> Batch:
        """Random words with their prefix products.

        Args:
          rng: what draws them.
          number: of words.
          length: elements of each.
        """
        words = self.group.letters[rng.integers(0, self.group.letters.size, (number, length))]
        return {
            "inputs": words.astype(np.int32),
            "targets": self.group.prefix_products(words).astype(np.int32),
            "loss_mask": np.ones(words.shape, bool),
        }

    def evaluate(self, model: Titans) -> dict[str, Any]:
        """Accuracy by length on test words; selection by the loss on other words, twice as long as in training.

        At the training length several rates bring the loss to 0, whether or not they have learned to track a state.

        Returns:
          "element": the fraction of right products among the first L; "word": of words with all of them right.
        """
        rng = np.random.default_rng(_VALIDATION)
        validation = self.words(rng, 64, 2 * self.config.train_length)
        test = self.words(
            np.random.default_rng(_TEST), self.config.test_words, self.config.test_lengths[-1]
        )
        loss, _ = _judge(*nnx.split(model), validation)
        right = np.asarray(_judge(*nnx.split(model), test)[1])
        lengths = self.config.test_lengths
        return {
            SELECTION: float(loss),
            "element": {str(length): float(right[:, :length].mean()) for length in lengths},
            "word": {
                str(length): float(right[:, :length].all(axis=1).mean()) for length in lengths
            },
        }


@functools.partial(jax.jit, static_argnums=0)
def _judge(graphdef: Any, params: Any, batch: Batch) -> tuple[jax.Array, Int[jax.Array, "B T"]]:
    """The mean loss, and where the likeliest token is the target."""
    logits, _ = nnx.merge(graphdef, params)(batch["inputs"])
    losses = optax.softmax_cross_entropy_with_integer_labels(logits, batch["targets"])
    return jnp.mean(losses), jnp.argmax(logits, axis=-1) == batch["targets"]


#: LMMs other than the base: without momentum, with a deep memory, and with more layers.
NO_MOMENTUM, DEEP_MEMORY, MORE_LAYERS = "lmm_no_momentum", "lmm_depth2", "lmm_layers2"


@dataclasses.dataclass(frozen=True)
class StateTrackingExperiment:
    """Everything that decides the experiment.

    Attributes:
      groups: of `groups.GROUPS`; one study each.
      models: variants of `TitansConfig`, "lmm_no_momentum", "lmm_depth2" or "lmm_layers2".
      model: what all share, an LMM whose memory has chunk 1; its vocabulary is replaced.
      task: see StateTrackingConfig.
      study: see StudyConfig.
    """

    groups: tuple[str, ...] = field(GROUPS, several(one_of(GROUPS)))
    models: tuple[str, ...] = field(
        ("lmm", NO_MOMENTUM, DEEP_MEMORY, "transformer", "mamba2", "deltanet", "gated_deltanet"),
        several(one_of((*KNOWN, NO_MOMENTUM, DEEP_MEMORY, MORE_LAYERS))),
    )
    model: TitansConfig = field(TitansConfig(variant="lmm"), instance_of(TitansConfig))
    task: StateTrackingConfig = field(StateTrackingConfig(), instance_of(StateTrackingConfig))
    study: StudyConfig = field(StudyConfig(), instance_of(StudyConfig))

    def __post_init__(self) -> None:
        check_fields(self)
        require(self.model.variant == "lmm", "model.variant", self.model.variant, "'lmm'")


def make_models(config: StateTrackingExperiment, vocab_size: int) -> dict[str, TitansConfig]:
    """The models by name, all of the base's size.

    Args:
      config: see StateTrackingExperiment.
      vocab_size: of the tasks.
    """
    base = dataclasses.replace(config.model, vocab_size=vocab_size)
    changes: dict[str, dict[str, Any]] = {
        NO_MOMENTUM: {"memory": dataclasses.replace(base.memory, momentum=False)},
        DEEP_MEMORY: {"memory": dataclasses.replace(base.memory, depth=2)},
        MORE_LAYERS: {"num_layers": 2},
    }
    models = {
        name: dataclasses.replace(base, **changes[name]) if name in changes else named(name, base)
        for name in config.models
    }
    return {name: match_parameters(model, base) for name, model in models.items()}
