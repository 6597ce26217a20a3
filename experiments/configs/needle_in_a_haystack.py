"""Needles for small models (experiments.needle_in_a_haystack); with `:400m` and so on for the paper's sizes.

python -m experiments.needle_in_a_haystack.run --data_dir=DATA
"""

import dataclasses

from ml_collections import ConfigDict

from experiments.comparison import StudyConfig
from experiments.configs.language_modeling import OPTIMIZER, small
from experiments.needle_in_a_haystack.task import NeedleConfig
from experiments.training.config import as_config_dict
from titans_jax import TitansConfig, preset

#: A memory trained at a high rate keeps noise out best, but started at one, MAC and MAG stay for long at knowing the
#: digits without their order.
SLOW_START = dataclasses.replace(OPTIMIZER, warmup_fraction=0.4)

#: Those that the results compare, the baselines as published and beginning closed; "mac" and so on, of memories that
#: begin open, are asked for by name.
MODELS = (
    "mac_closed", "lmm_closed", "mag_closed", "mal_closed",
    "ttt_linear", "mamba2", "deltanet", "gated_deltanet", "transformer_window",
    "ttt_linear_closed", "deltanet_closed", "gated_deltanet_closed",
)  # fmt: skip


def get_config(size: str = "small") -> ConfigDict:
    """Returns the config of a size: "small", or one of the paper's."""
    return as_config_dict(small_needles() if size == "small" else paper_needles(size))


def small_needles() -> NeedleConfig:
    """The experiment at the size of a CPU."""
    return NeedleConfig(
        models=MODELS,
        # Attention that sees key and question of a bare prompt answers it, and the memory stays closed.
        model=dataclasses.replace(strict(recalling()), window=16, segment=16),
        # Prose beside the noise: what keeps a short haystack out of the memory keeps a long one out of it. UUIDs take a
        # model of this size longer.
        tasks=("single_1", "single_2"),
        bare_steps=400,
        # The longest key fits; for most nothing else does. 700 steps at 104 and 192 are the other curriculum of the
        # results: MAL learns more reliably, and what most learn reaches less far.
        bare_lengths=(104,),
        batch_tokens=4096,
        bare_context_weight=0.0,
        context_weight=0.0,
        study=StudyConfig(
            steps=1400, learning_rates=(4e-3, 8e-3), seeds=(0, 1, 2, 3), optimizer=SLOW_START
        ),
    )


def paper_needles(size: str) -> NeedleConfig:
    """The experiment at one of the paper's sizes."""
    return NeedleConfig(
        model=preset(size, "mac"),
        train_lengths=(1024, 2048, 4096),
        batch_tokens=524_288,
        selection_length=8192,
        test_lengths=(2048, 4096, 8192, 16_384),
        test_samples=500,
        study=StudyConfig(steps=6000, learning_rates=(4e-4,), checkpoint_every=1000),
    )


def recalling() -> TitansConfig:
    """The small model of comparisons, with a memory that finds again what it has seen once."""
    base = small()
    # theta up to 16 % of the whole step at each token, from weights no more than 16 tokens old: with chunks of a whole
    # segment MAC does not learn to recall in as many steps. One head: keys of 64 features are easier to tell apart
    # than those of two heads of 32.
    memory = dataclasses.replace(base.memory, num_heads=1, chunk=16, step_scale=2.56)
    return dataclasses.replace(base, memory=memory)


def strict(model: TitansConfig) -> TitansConfig:
    """The model with a memory that may write four times as much of a token: two thirds.

    The closed ones use it for what they want to keep. Those that begin open begin by writing a third of each token,
    and what they do not learn to keep out destroys the needle in a thousand tokens already.
    """
    memory = dataclasses.replace(model.memory, step_scale=4 * model.memory.step_scale)
    return dataclasses.replace(model, memory=memory)
