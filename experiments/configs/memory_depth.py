"""Memories of one to four layers, small (experiments.memory_depth); with `:170m` and so on at the paper's sizes.

python -m experiments.memory_depth.run --data_dir=DATA
"""

from ml_collections import ConfigDict

from experiments.comparison import StudyConfig
from experiments.configs.language_modeling import (
    OPTIMIZER,
    memory_of_0_1,
    paper_study,
    paper_text,
)
from experiments.language_modeling.task import TextConfig
from experiments.memory_depth.task import MemoryDepthConfig
from experiments.training.config import as_config_dict
from titans_jax import preset


def get_config(size: str = "small") -> ConfigDict:
    """Returns the config of a size: "small", or one of the paper's."""
    if size == "small":
        config = MemoryDepthConfig(
            # Wide enough that a memory of depth 4 is made equal by the width, not by a layer less.
            model=preset("tiny", "lmm", dim=64, feed_forward=192, memory=memory_of_0_1()),
            text=TextConfig(valid_fraction=0.003, test_bytes=65_536),
            study=StudyConfig(
                steps=200, learning_rates=(2e-3, 4e-3), seeds=(0, 1), optimizer=OPTIMIZER
            ),
        )
        return as_config_dict(config)
    config = MemoryDepthConfig(
        lengths=(1024, 4096, 16_384, 32_768),
        tokens_per_step=32_768,
        model=preset(size, "lmm"),
        text=paper_text(),
        study=paper_study(size),
    )
    return as_config_dict(config)
