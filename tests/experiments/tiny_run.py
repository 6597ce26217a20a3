"""The smallest run that still has every part, for the tests of training."""

from pathlib import Path

from ml_collections import ConfigDict

from experiments.training.config import TrainConfig, default_config, train_config

WORDS = b"the memory writes what surprises it, forgets what it can, and reads without writing. "


def tiny_config_dict(text: Path) -> ConfigDict:
    """Returns a config whose steps take milliseconds, over the text file `text`."""
    config = default_config()
    config.steps = 6
    config.batch_size = 4
    config.baseline = False
    config.log_every = 2
    config.eval_every = 3
    config.eval_batches = 1
    config.checkpoint_every = 2
    config.data.path = str(text)
    config.data.sequence_length = 16
    config.data.valid_fraction = 0.1
    config.optimizer.learning_rate = 1e-2
    config.sample.length = 4
    config.model.variant = "mac"
    config.model.dim = 16
    config.model.num_layers = 1
    config.model.num_heads = 2
    config.model.segment = 8
    config.model.window = 8
    config.model.persistent_tokens = 2
    config.model.feed_forward = 16
    config.model.memory.num_heads = 2
    config.model.memory.chunk = 4
    return config


def write_text(folder: Path) -> Path:
    """Returns the path of a small text file in `folder`."""
    path = folder / "words.txt"
    path.write_bytes(b"".join(WORDS[i % 40 :] for i in range(60)))
    return path


def tiny_config(folder: Path, **changes: object) -> TrainConfig:
    """Returns the smallest config, with `changes` by flat name (dots as double underscores)."""
    config = tiny_config_dict(write_text(folder))
    config.update_from_flattened_dict(
        {name.replace("__", "."): value for name, value in changes.items()}
    )
    return train_config(config)
