"""The paper's training runs (§5.1) on a TPU pod: what the configs titans_170m to titans_760m share.

AdamW at 4e-4 with weight decay 0.1 and cosine decay, sequences of 4,096 tokens, 0.5 million tokens a batch, 15 billion
tokens in all (30 billion for 760m). Parameters and optimizer state are shared out over all chips of a slice; for
several slices add --config.mesh.data=SLICES. Data and tokenizer are the user's: --config.data.path, and
--config.data.tokenizer with the paper's 32,000 pieces.
"""

from ml_collections import ConfigDict

from experiments.training.config import default_config, set_model
from titans_jax import preset
from titans_jax.config import Variant

LENGTH, BATCH_TOKENS = 4096, 524_288


def paper_config(size: str, variant: Variant | None) -> ConfigDict:
    """Returns the config of one of the paper's sizes.

    Args:
      size: "170m", "340m", "400m" or "760m".
      variant: None for "mac".
    """
    config = default_config()
    set_model(config, preset(size, variant or "mac"))
    config.batch_size = BATCH_TOKENS // LENGTH
    config.data.sequence_length = LENGTH
    tokens = 30_000_000_000 if size == "760m" else 15_000_000_000
    config.steps = tokens // BATCH_TOKENS
    config.baseline = False
    config.optimizer.learning_rate = 4e-4
    config.mesh.data, config.mesh.fsdp = 1, 0
    config.log_every = 20
    config.eval_every = config.checkpoint_every = 1000
    return config
