"""Small byte-level models for the long-context experiment.

    python -m experiments.long_context.train --variant=mag --workdir=runs/long_context/mag --data_path=BOOKS

trains one on streams. `experiments.train` takes this config too, and trains on separate sequences.
A sixth of the text is held out, whole documents: enough to stream two million tokens of it from twenty million.
"""

from ml_collections import ConfigDict

from experiments.configs import tiny
from titans_jax.config import RULE_OF_0_1


def get_config() -> ConfigDict:
    """Returns the config."""
    config = tiny.get_config()
    config.steps = 300
    config.baseline = False
    config.data.sequence_length = 1024
    config.data.valid_fraction = 0.17
    config.eval_every = 0
    config.model.memory.update(RULE_OF_0_1)  # of the committed results
    return config
