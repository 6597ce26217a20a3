"""Trains one small model for the long-context experiment, on streams (training.py).

    python -m experiments.long_context.train --variant=lmm --workdir=runs/long_context/lmm

The model is written in the Hugging Face layout, with training.json beside it: the config, the losses and the seconds.
"""

import json
import time
from pathlib import Path

import numpy as np
from absl import flags

from experiments import command
from experiments.long_context.training import MEAN_WINDOWS, RECORD, make_config, train
from experiments.training.config import flatten
from experiments.training.text import load_text
from titans_jax.data.tokenizers import ByteTokenizer
from titans_jax.inference import save_pretrained


def define_flags() -> None:
    """The program's flags."""
    flags.DEFINE_string("variant", "lmm", "lmm, mac, mag, mal or transformer")
    flags.DEFINE_string("workdir", "runs/long_context/lmm", "folder of the model")
    flags.DEFINE_string("data_path", "stdlib", "a text file, a folder, a glob, or stdlib")
    flags.DEFINE_integer("steps", 300, "optimizer steps", lower_bound=1)


def main() -> None:
    """Trains one model and writes it."""
    try:
        config = make_config(flags.FLAGS.variant, flags.FLAGS.data_path, flags.FLAGS.steps)
        text = load_text(config, ByteTokenizer())
    except (ValueError, OSError) as error:
        raise SystemExit(f"error: {error}") from error
    began = time.perf_counter()
    model, losses = train(config, np.concatenate(text.train.documents))
    folder = Path(flags.FLAGS.workdir)
    folder.mkdir(parents=True, exist_ok=True)
    save_pretrained(model, folder)
    record = {
        "config": flatten(config),
        "mean_windows": MEAN_WINDOWS,
        "seconds": time.perf_counter() - began,
        "losses": losses,
    }
    (folder / RECORD).write_text(json.dumps(record) + "\n", encoding="utf-8")
    print(f"written to {folder}")


if __name__ == "__main__":
    command.run(main, define_flags)
