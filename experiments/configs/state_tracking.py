"""State tracking, small (experiments.state_tracking); with `:large` as wide and as long as the literature's runs.

python -m experiments.state_tracking.run
"""

from ml_collections import ConfigDict

from experiments.comparison import StudyConfig
from experiments.state_tracking.config import StateTrackingExperiment
from experiments.state_tracking.task import StateTrackingConfig
from experiments.training.config import OptimizerConfig, as_config_dict
from titans_jax import MemoryConfig, TitansConfig


def get_config(size: str = "small") -> ConfigDict:
    """Returns the config of a size: "small" or "large"."""
    large = size == "large"
    # theta = step_scale (1 - eta) sigmoid(.) reaches 1, so the transition's eigenvalues reach -1 and no further: with 2
    # the loss is 0 sooner, but memories learn to grow at every step and overflow beyond the lengths of training.
    memory = MemoryConfig(
        num_heads=8 if large else 4, depth=1, chunk=1, conv_width=0, step_scale=1.0
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
        steps=100_000 if large else 600,
        learning_rates=(1e-3, 2e-3, 4e-3) if large else (5e-3, 1e-2),
        seeds=(0, 1),
        optimizer=optimizer,
        checkpoint_every=5000 if large else 600,
    )
    task = StateTrackingConfig(
        batch_elements=131_072 if large else 1024, stage_steps=5000 if large else 150
    )
    return as_config_dict(StateTrackingExperiment(model=model, task=task, study=study))
