"""Training speed of every model, small; with `:400m` and so on at the paper's sizes (experiments.efficiency.run).

python -m experiments.efficiency.run
"""

from ml_collections import ConfigDict

from experiments.configs.language_modeling import memory_of_0_1
from experiments.efficiency.run import EfficiencyConfig
from experiments.language_modeling.named_models import NAMES
from experiments.training.config import as_config_dict
from titans_jax import preset

#: The paper's Fig. 9: 2K x 16 to 32K x 1.
PAPER_LENGTHS = (2048, 4096, 8192, 16_384, 32_768)


def get_config(size: str = "small") -> ConfigDict:
    """Returns the config of a size: "small", or one of the paper's."""
    if size == "small":
        return as_config_dict(
            EfficiencyConfig(models=NAMES, model=preset("tiny", "lmm", memory=memory_of_0_1()))
        )
    config = EfficiencyConfig(
        models=NAMES,
        model=preset(size, "lmm"),
        vocab_size=32_000,
        lengths=PAPER_LENGTHS,
        tokens_per_step=32_768,
        repeats=10,
        tpu_preset=size,
    )
    return as_config_dict(config)
