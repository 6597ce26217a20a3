"""A small byte-level MAC on the Python standard library's own sources: a first run on any machine.

    python -m experiments.train --config=experiments/configs/tiny.py --workdir=runs/tiny

Some minutes on 2 CPU cores (AMD EPYC) with huge pages, the Transformer++ baseline, validation and compilation included;
598,540 parameters. Validation bits per byte, one seed: 2.31, the baseline 2.71 (order-0 entropy 4.60, lzma 1.76). On a
machine with more cores, set `--config.cpu_devices` to a divisor of the batch size up to their number.
"""

from ml_collections import ConfigDict

from experiments.training.config import default_config


def get_config() -> ConfigDict:
    """Returns the config."""
    config = default_config()
    config.steps = 750
    config.batch_size = 2
    config.cpu_devices = 2
    config.probe_every = 250
    config.data.valid_bytes = 262_144
    config.data.sequence_length = 512
    config.optimizer.learning_rate = 2e-3
    config.optimizer.warmup_fraction = 0.1
    config.optimizer.beta2 = 0.99
    config.model.variant = "mac"
    config.model.dim = 128
    config.model.num_layers = 2
    config.model.num_heads = 2
    config.model.segment = 64
    config.model.window = 64
    config.model.feed_forward = 256
    config.model.memory.num_heads = 2
    config.model.recurrence.num_heads = 2
    config.model.memory.chunk = 64
    return config
