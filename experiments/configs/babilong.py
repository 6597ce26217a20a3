"""BABILong for small models (experiments.babilong); with `:400m` and so on for models of the paper's sizes.

python -m experiments.babilong.run --data_dir=DATA
"""

from ml_collections import ConfigDict

from experiments.babilong.config import BabilongConfig
from experiments.comparison import StudyConfig
from experiments.configs.needle_in_a_haystack import SLOW_START, recalling
from experiments.training.config import as_config_dict
from titans_jax import preset


def get_config(size: str = "small") -> ConfigDict:
    """Returns the config of a size: "small", or one of the paper's."""
    if size == "small":
        study = StudyConfig(
            steps=1500,
            learning_rates=(2e-3, 8e-3),
            seeds=(0, 1),
            optimizer=SLOW_START,
        )
        return as_config_dict(BabilongConfig(model=recalling(), study=study))
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
