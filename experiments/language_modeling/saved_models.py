"""A trained model by the folder of its run, or of a trial of a comparison."""

from pathlib import Path
from typing import NamedTuple

from flax import nnx

from experiments.comparison.trial import CHECKPOINTS
from experiments.training.checkpoints import restore_params
from experiments.training.step import split_model
from experiments.training.trained import load_trained
from experiments.training.workdir import read_config
from titans_jax import Titans, TitansConfig
from titans_jax.data import Tokenizer, load_tokenizer
from titans_jax.inference.pretrained import config_from_dict


class TrainedModel(NamedTuple):
    """A model, what encodes its text, and the optimizer steps it was trained for."""

    model: Titans
    tokenizer: Tokenizer
    steps: int


def load_model(workdir: Path, tokenizer: str | None = None) -> TrainedModel:
    """Loads the newest checkpoint under a folder.

    Args:
      workdir: of a run of experiments.train, or WORKDIR/MODEL/rate_RATE/seed_SEED of a comparison.
      tokenizer: where the tokenizer file is now, if it has moved.

    Raises:
      OSError: there is no run, no checkpoint, or no tokenizer file.
      ValueError: no checkpoint can be read, or it is of another model.
      ImportError: the tokenizer's library is missing.
    """
    path = workdir / "config.json"
    saved = read_config(workdir) if path.exists() else {}
    if not isinstance(saved.get("model"), dict):  # experiments.train writes a flat config
        trained = load_trained(workdir, tokenizer)
        return TrainedModel(trained.model, trained.tokenizer, trained.steps)
    model = config_from_dict(saved["model"], str(path))
    encoder = load_tokenizer(tokenizer or saved["task"].get("tokenizer", "bytes"))
    if encoder.vocab_size != model.vocab_size:
        raise ValueError(
            f"--workdir={workdir}: its model has {model.vocab_size} tokens, the tokenizer {encoder.vocab_size}: "
            "it belongs to another model"
        )
    steps, loaded = load_trial(model, workdir)
    return TrainedModel(loaded, encoder, steps)


def load_trial(model: TitansConfig, folder: Path) -> tuple[int, Titans]:
    """The steps and the newest checkpoint of a trial of a comparison.

    Args:
      model: the trial's.
      folder: of the trial.

    Raises:
      OSError: there is no checkpoint.
      ValueError: none can be read, or it is of another model.
    """
    graphdef, shapes = split_model(model)
    steps, params, _ = restore_params(folder / CHECKPOINTS, shapes)
    return steps, nnx.merge(graphdef, params)
