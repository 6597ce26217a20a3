"""Every model on the same books, small; with `:340m` and so on at the paper's sizes (experiments.language_modeling).

    python -m experiments.language_modeling.run --data_dir=DATA

Bytes, 300 steps of 8 x 512, two seeds. At the paper's sizes text and tokenizer are the user's:
--config.text.train=PATTERN (under --data_dir), --config.text.tokenizer=FILE.
"""

import dataclasses

from ml_collections import ConfigDict

from experiments.comparison import StudyConfig
from experiments.configs.paper import BATCH_TOKENS, LENGTH
from experiments.language_modeling.named_models import NAMES
from experiments.language_modeling.run import LanguageModelingConfig
from experiments.language_modeling.task import QuestionsConfig, TextConfig
from experiments.training.config import OptimizerConfig, as_config_dict
from titans_jax import MemoryConfig, TitansConfig, preset
from titans_jax.config import RULE_OF_0_1

OPTIMIZER = OptimizerConfig(warmup_fraction=0.1, beta2=0.99)
PAPER_TOKENS = {"170m": 15e9, "340m": 15e9, "400m": 15e9, "760m": 30e9}


def get_config(size: str = "small") -> ConfigDict:
    """Returns the config of a size: "small", or one of the paper's."""
    if size == "small":
        config = LanguageModelingConfig(
            models=NAMES,
            model=small(),
            text=TextConfig(valid_fraction=0.003, test_bytes=131_072),
            questions=QuestionsConfig(limit=100),
            study=StudyConfig(
                steps=300, learning_rates=(2e-3, 6e-3), seeds=(0, 1), optimizer=OPTIMIZER
            ),
        )
        return as_config_dict(config)
    config = LanguageModelingConfig(
        models=NAMES,
        model=preset(size, "lmm"),
        text=paper_text(),
        questions=dataclasses.replace(QuestionsConfig(), limit=0),
        study=paper_study(size),
    )
    return as_config_dict(config)


def small() -> TitansConfig:
    """The base of comparisons, of 160,000 parameters. MAC has the largest mixer: the others are wider, not deeper."""
    return preset("tiny", "mac", dim=64, feed_forward=128, memory=memory_of_0_1())


def memory_of_0_1() -> MemoryConfig:
    """The tiny preset's memory with the rule that the committed results were made with."""
    return dataclasses.replace(preset("tiny").memory, **RULE_OF_0_1)


def paper_text() -> TextConfig:
    """Sequences and batches of the paper's training."""
    return TextConfig(length=LENGTH, batch_size=BATCH_TOKENS // LENGTH, test_bytes=0)


def paper_study(size: str) -> StudyConfig:
    """The paper's training of a size."""
    steps = round(PAPER_TOKENS[size] / BATCH_TOKENS)
    return StudyConfig(steps=steps, learning_rates=(4e-4,), seeds=(0,), checkpoint_every=1000)
