"""BABILong for small models (experiments.babilong); with `:400m` and so on for models of the paper's sizes.

python -m experiments.babilong.run --data_dir=DATA
"""

import dataclasses

from ml_collections import ConfigDict

from experiments.babilong.task import BabilongConfig
from experiments.comparison import StudyConfig
from experiments.configs.language_modeling import OPTIMIZER
from experiments.configs.needle_in_a_haystack import recalling
from experiments.training.config import as_config_dict
from titans_jax import preset


def get_config(size: str = "small") -> ConfigDict:
    """Returns the config of a size: "small", or one of the paper's."""
    if size == "small":
        base = recalling()
        # Who moves has a new place, and a write must be able to take all of the old one away. Steps begin whole (a
        # token read back as it was written) and may become twice that. A deep memory learned more slowly with them, and
        # token by token it is too slow for a CPU. The feed-forward width makes up for the parameters that depth had.
        memory = dataclasses.replace(base.memory, depth=1, chunk=1, step_scale=1.0)
        # With segments that hold a whole short story MAC answers from them, and its memory learns late.
        model = dataclasses.replace(base, memory=memory, feed_forward=192, window=64, segment=16)
        # At 4e-3 an LMM stays at knowing that the answer is a place of the story.
        study = StudyConfig(
            steps=4000, learning_rates=(1e-3, 2e-3), seeds=(0, 1), optimizer=OPTIMIZER
        )
        config = BabilongConfig(
            model=model,
            prose_steps=50,
            short_steps=1000,
            short_lengths=(32, 64),
            # Most stories of the third task are longer than 256 tokens.
            train_lengths=(64, 128, 256, 512),
            test_tokens=48 * 16_384,
            study=study,
        )
        return as_config_dict(config)
    config = BabilongConfig(
        model=preset(size, "mac"),
        tokenizer="bpe:32000",
        prose_steps=4000,
        train_lengths=(1024, 2048, 4096),
        batch_tokens=524_288,
        test_lengths=(0, 4096, 8192, 16_384, 32_768, 65_536, 131_072),
        test_samples=100,
        test_tokens=100 * 131_072,
        stream_lengths=(1_000_000,),
        stream_samples=25,
        study=StudyConfig(steps=6000, learning_rates=(4e-4,), seeds=(0, 1), checkpoint_every=1000),
    )
    return as_config_dict(config)
