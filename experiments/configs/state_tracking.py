"""State tracking, small (experiments.state_tracking); with `:large` as wide and as long as the literature's runs.

python -m experiments.state_tracking.run
"""

from ml_collections import ConfigDict

from experiments.comparison import StudyConfig
from experiments.state_tracking.task import StateTrackingConfig, StateTrackingExperiment
from experiments.training.config import OptimizerConfig, as_config_dict
from titans_jax import MemoryConfig, TitansConfig
from titans_jax.config import RULE_OF_0_1


def get_config(size: str = "small") -> ConfigDict:
    """Returns the config of a size: "small" or "large"."""
    large = size == "large"
    # theta = step_scale (1 - eta) sigmoid(.), and the transition's eigenvalue is 1 - 2 theta. With a step_scale of 1 it
    # reaches -1, a reflection, only at an infinite logit, and what is tracked fades within a hundred elements. With
    # 1.05 the largest growth, 1.1 per element, is still finite after the longest test; with 2 it would not be.
    memory = MemoryConfig(
        num_heads=8 if large else 4,
        depth=1,
        chunk=1,
        conv_width=0,
        **(RULE_OF_0_1 | {"step_scale": 1.05}),
    )
    model = TitansConfig(
        variant="lmm",
        dim=512 if large else 64,
        num_layers=1,
        num_heads=8 if large else 4,
        window=512,
        persistent_tokens=0,
        feed_forward=2048 if large else 512,
        tie_embeddings=False,
        memory=memory,
    )
    optimizer = OptimizerConfig(weight_decay=0.1, final_fraction=0.05)
    study = StudyConfig(
        steps=100_000 if large else 1200,
        learning_rates=(1e-3, 2e-3, 4e-3) if large else (5e-3, 1e-2),
        seeds=(0, 1),
        optimizer=optimizer,
        checkpoint_every=5000 if large else 600,
    )
    task = StateTrackingConfig(
        batch_elements=131_072 if large else 1024, stage_steps=5000 if large else 150
    )
    return as_config_dict(StateTrackingExperiment(model=model, task=task, study=study))
