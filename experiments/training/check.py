"""Says whether a config can train, and starts nothing: what a launching program asks before it rents machines.

python -m experiments.training.check --config=experiments/configs/titans_340m.py:mag --config.steps=100
"""

from collections.abc import Sequence

from absl import app, flags
from ml_collections import config_flags

from experiments.training.config import parse_flags, train_config


def main(argv: Sequence[str]) -> None:
    """Reads the config, and ends with one message where a value cannot work."""
    if len(argv) > 1:
        raise app.UsageError(f"unexpected arguments {argv[1:]}: everything is a --flag=value")
    try:
        train_config(flags.FLAGS.config)
    except (ValueError, OSError, ImportError) as error:
        raise SystemExit(f"error: {error}") from error


if __name__ == "__main__":
    config_flags.DEFINE_config_file("config", None, "a file of experiments/configs/")
    flags.mark_flag_as_required("config")
    app.run(main, flags_parser=parse_flags)
