"""The ablation of a small LMM (experiments.ablation); with `:340m` and so on of one of the paper's size.

python -m experiments.ablation.run --data_dir=DATA
"""

import dataclasses

from ml_collections import ConfigDict

from experiments.ablation.cases import CHANGES
from experiments.ablation.config import AblationConfig
from experiments.ablation.recall import RecallConfig
from experiments.comparison import StudyConfig
from experiments.configs.language_modeling import OPTIMIZER, paper_study, paper_text
from experiments.configs.needle_in_a_haystack import SLOW_START, recalling
from experiments.language_modeling.config import TextConfig
from experiments.training.config import as_config_dict
from titans_jax import MemoryConfig, TitansConfig, preset


def get_config(size: str = "small") -> ConfigDict:
    """Returns the config of a size: "small", or one of the paper's."""
    if size != "small":
        study = paper_study(size)
        config = AblationConfig(
            cases=tuple(CHANGES),
            chunks=(16, 64, 512),
            model=preset(size, "lmm"),
            recall_model=preset(size, "lmm"),
            text=paper_text(),
            recall=RecallConfig(
                train_lengths=(512, 1024, 2048, 4096),
                batch_tokens=131_072,
                test_lengths=(4096, 8192, 16_384, 32_768),
            ),
            study=study,
            recall_study=dataclasses.replace(study, steps=5000),
        )
        return as_config_dict(config)
    study = StudyConfig(steps=200, learning_rates=(6e-3,), seeds=(0, 1), optimizer=OPTIMIZER)
    config = AblationConfig(
        cases=tuple(CHANGES),
        chunks=(8, 128, 512),
        model=small_base(MemoryConfig(num_heads=2, chunk=32)),
        recall_model=small_base(recalling().memory),
        text=TextConfig(valid_fraction=0.003, test_bytes=131_072),
        recall=RecallConfig(bare_steps=500),
        study=study,
        recall_study=dataclasses.replace(
            study, steps=1000, learning_rates=(4e-3,), seeds=(0, 1, 2), optimizer=SLOW_START
        ),
    )
    return as_config_dict(config)


def small_base(memory: MemoryConfig) -> TitansConfig:
    """The LMM that is changed, wide enough that MAC is made equal by the width, not by a layer less."""
    return preset("tiny", "lmm", dim=64, memory=memory, feed_forward=216)
