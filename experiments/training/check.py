"""Says whether a config can train, and starts nothing: what a launching program asks before it rents machines.

python -m experiments.training.check --config=experiments/configs/titans_340m.py:mag --config.steps=100
"""

from absl import flags
from ml_collections import config_flags

from experiments import command
from experiments.training.config import TrainConfig, train_config


def define_flags() -> None:
    """The program's flags."""
    config_flags.DEFINE_config_file("config", None, "a file of experiments/configs/")
    flags.mark_flag_as_required("config")


def main() -> None:
    """Reads the config."""
    train_config(flags.FLAGS.config)


if __name__ == "__main__":
    command.run(main, define_flags, config=TrainConfig, cached=False)
