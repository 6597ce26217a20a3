"""The ablation of a small LMM (experiments.ablation); with `:340m` and so on of one of the paper's size.

python -m experiments.ablation.run --data_dir=DATA
"""

import dataclasses

from ml_collections import ConfigDict

from experiments.ablation.cases import CHANGES, COMPONENTS
from experiments.ablation.run import AblationConfig
from experiments.ablation.streams import StreamConfig
from experiments.comparison import StudyConfig
from experiments.configs import long_context
from experiments.configs.language_modeling import OPTIMIZER, paper_study, paper_text
from experiments.configs.needle_in_a_haystack import paper_needles, small_needles
from experiments.configs.paper import BATCH_TOKENS, LENGTH
from experiments.language_modeling.named_models import make_models
from experiments.language_modeling.task import TextConfig
from experiments.training.config import OptimizerConfig, as_config_dict, train_config
from titans_jax import MemoryConfig, preset
from titans_jax.config import RULE_OF_0_1

#: MAC, MAG and MAL are asked for needles by the needle experiment.
FINDING = ("base", *COMPONENTS, "chunk-wise gates", "residual network", "read before")


def get_config(size: str = "small") -> ConfigDict:
    """Returns the config of a size: "small", or one of the paper's."""
    if size != "small":
        config = AblationConfig(
            cases=tuple(CHANGES),
            chunks=(16, 64, 512),
            model=preset(size, "lmm"),
            text=paper_text(),
            study=paper_study(size),
            needle_cases=FINDING,
            needle_chunks=(16, 64, 512),
            needles=dataclasses.replace(paper_needles(size), model=preset(size, "lmm")),
            stream_cases=FINDING,
            streams=StreamConfig(
                model=preset(size, "lmm"),
                length=LENGTH,
                batch_size=BATCH_TOKENS // LENGTH,
                steps=paper_study(size).steps,
                optimizer=OptimizerConfig(learning_rate=4e-4),
                seeds=(0,),
            ),
        )
        return as_config_dict(config)
    needles = small_needles()
    long = train_config(long_context.get_config())
    config = AblationConfig(
        cases=tuple(CHANGES),
        chunks=(8, 128, 512),
        # Wide enough that MAC is made equal by the width, not by a layer less.
        model=preset(
            "tiny",
            "lmm",
            dim=64,
            memory=MemoryConfig(num_heads=2, chunk=32, **RULE_OF_0_1),
            feed_forward=216,
        ),
        text=TextConfig(valid_fraction=0.003, test_bytes=131_072),
        study=StudyConfig(steps=200, learning_rates=(6e-3,), seeds=(0, 1), optimizer=OPTIMIZER),
        needle_cases=FINDING,
        needle_chunks=(8, 128),
        needles=dataclasses.replace(
            needles,
            model=make_models(("lmm_closed",), needles.model)["lmm_closed"],
            # The rate that the LMM of the needle experiment chose.
            study=dataclasses.replace(needles.study, learning_rates=(8e-3,), seeds=(0, 1)),
        ),
        stream_cases=FINDING,
        # The LMM of experiments/long_context.
        streams=StreamConfig(
            model=dataclasses.replace(long.model, variant="lmm"),
            optimizer=long.optimizer,
            steps=long.steps,
        ),
    )
    return as_config_dict(config)
