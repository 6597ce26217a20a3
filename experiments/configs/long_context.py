"""Small byte-level models for `python -m experiments.long_context.stream`, which trains those that are missing.

    python -m experiments.train --config=experiments/configs/long_context.py --workdir=runs/long_context/mag \
        --config.model.variant=mag --config.data.path=BOOKS

A sixth of the text is held out, whole documents: enough to stream two million tokens of it from twenty million.
"""

from ml_collections import ConfigDict

from experiments.configs import tiny


def get_config() -> ConfigDict:
    """Returns the config."""
    config = tiny.get_config()
    config.steps = 400
    config.baseline = False
    config.data.sequence_length = 1024
    config.data.valid_fraction = 0.17
    config.eval_every = 0
    return config
