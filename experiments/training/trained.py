"""A trained model from the workdir of its run, for the programs that use one."""

from pathlib import Path
from typing import NamedTuple

from flax import nnx

from experiments.training.checkpoints import check_identity, restore_params
from experiments.training.config import TrainConfig, from_flat
from experiments.training.step import split_model
from experiments.training.workdir import read_config
from titans_jax import Titans
from titans_jax.data.tokenizers import Tokenizer, load_tokenizer


class Trained(NamedTuple):
    """A model, what encodes its text, the run's config, and the optimizer steps it was trained for."""

    model: Titans
    tokenizer: Tokenizer
    config: TrainConfig
    steps: int


def load_trained(workdir: Path, tokenizer: str | None = None) -> Trained:
    """Loads the newest readable checkpoint of a run.

    Args:
      workdir: of the run.
      tokenizer: where the run's tokenizer file is now, if it has moved.

    Raises:
      OSError: there is no run, no checkpoint, or no tokenizer file.
      ValueError: its config is no run's, no checkpoint can be read, or the tokenizer is another.
      ImportError: the tokenizer's library is missing.
    """
    flat = read_config(workdir)
    try:
        config = from_flat(flat)
    except (KeyError, TypeError, ValueError) as error:
        path = workdir / "config.json"
        raise ValueError(f"{path} is not the config of a run of this version: {error!r}") from error
    encoder = load_tokenizer(tokenizer or config.data.tokenizer)
    graphdef, shapes = split_model(config.model)
    folder = workdir / config.model.variant / "checkpoints"
    steps, params, identity = restore_params(folder, shapes)
    check_identity(identity, {"tokenizer": encoder.fingerprint()}, str(folder))
    return Trained(nnx.merge(graphdef, params), encoder, config, steps)
