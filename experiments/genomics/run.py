"""Classification of DNA (paper, section 5.7 and Table 4): an LMM beside its baselines.

    python -m experiments.genomics.run --task=nontata_promoters --data_dir=DIR

Every model is trained at the same learning rates with the first seed; validation chooses, and the chosen rate is
trained with the other seeds. Every training is written to OUTPUT/TASK.json as it ends, with the commit, the machine and
the CPU-seconds; the page TASK.md and the picture TASK.png follow. The same command goes on with what is missing. A
language model that experiments.genomics.pretrain left is one more: --models=lmm,pretrained --pretrained=FOLDER.
"""

from __future__ import annotations

import argparse
import math
import os
import shlex
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from experiments.genomics.models import PRETRAINED, TITLES, Size
from experiments.genomics.study import Settings, Study
from experiments.genomics.tasks import PAPER, load_task
from experiments.genomics.training import FitConfig
from titans_jax.data.nucleotides import NucleotideTokenizer

RESULTS = Path(__file__).resolve().parents[1] / "results" / "genomics"
#: Flags whose values differ from machine to machine; the page shows them as DIR.
PLACES = ("data_dir", "output", "pretrained")


def parse_arguments(arguments: Sequence[str]) -> argparse.Namespace:
    """The command's flags, checked."""
    parser = argparse.ArgumentParser(
        "experiments.genomics.run", description="Classification of DNA sequences."
    )
    add = parser.add_argument
    add("--task", required=True, help=f"{', '.join(PAPER)}, or a folder's or table's name in DIR")
    add("--data_dir", default=os.environ.get("TITANS_DATA"), help="folder of the tasks (tasks.py)")
    models = ",".join(name for name in TITLES if name != PRETRAINED)
    add("--models", default=models, help="names, with commas between")
    add("--pretrained", help="folder of a language model, where the model 'pretrained' starts")
    add("--rates", default="0.004,0.008", help="learning rates, with commas between")
    add("--seeds", default="0,1,2", help="with commas between; the first chooses the rate")
    add("--epochs", type=int, default=4, help="of the language models; the CNN has at least 10")
    add("--batch_size", type=int, default=16, help="sequences per step")
    add("--weight_decay", type=float, default=0.1, help="of AdamW")
    add("--dim", type=int, default=32, help="of the LMM; baselines are matched to it")
    add("--layers", type=int, default=1, help="of the LMM")
    add("--keep_case", action="store_true", help="lower-case letters are tokens of their own")
    add("--one_strand", action="store_true", help="no reverse complements")
    add("--split_seed", type=int, default=0, help="of the split")
    add("--max_minutes", type=float, default=math.inf, help="start no training after so long")
    add("--output", type=Path, default=RESULTS, help="folder of the results")
    options = parser.parse_args(arguments)
    if options.data_dir is None:
        parser.error("--data_dir (or the environment variable TITANS_DATA) must name a folder")
    options.models = options.models.split(",")
    for model in options.models:
        if model not in TITLES:
            parser.error(f"--models: {model!r} is not one of {', '.join(TITLES)}")
    if PRETRAINED in options.models and options.pretrained is None:
        parser.error("--models: 'pretrained' needs --pretrained=FOLDER")
    options.rates = _numbers(parser, "rates", options.rates, float)
    options.seeds = _numbers(parser, "seeds", options.seeds, int)
    return options


def _numbers(parser: argparse.ArgumentParser, name: str, given: str, kind: Any) -> tuple[Any, ...]:
    try:
        values = tuple(kind(value) for value in given.split(","))
    except ValueError:
        parser.error(f"--{name}={given}: must be numbers with commas between")
    if len(set(values)) < len(values) or min(values) < 0 or (kind is float and 0 in values):
        parser.error(f"--{name}={given}: must be positive (a seed may be 0), and none twice")
    return values


def command_line(arguments: Sequence[str]) -> str:
    """The command as it can be given again, elsewhere."""
    said: list[str] = []
    for argument in arguments:
        before = said[-1].removeprefix("--") if said else ""
        name = argument.removeprefix("--").partition("=")[0]
        if before in PLACES:
            argument = "DIR"
        elif name in PLACES and "=" in argument:
            argument = f"--{name}=DIR"
        said.append(argument)
    return shlex.join(["python", "-m", "experiments.genomics.run", *said])


def main(arguments: Sequence[str]) -> None:
    """Runs what is missing."""
    options = parse_arguments(arguments)
    try:
        tokenizer = NucleotideTokenizer(keep_case=options.keep_case)
        task = load_task(options.task, options.data_dir, tokenizer, options.split_seed)
        settings = Settings(
            options.rates,
            options.seeds,
            FitConfig(
                options.epochs, options.batch_size, options.weight_decay, not options.one_strand
            ),
            Size(options.dim, options.layers),
            tokenizer.vocab_size,
        )
        output = options.output / options.task
        study = Study(task, settings, output, command_line(arguments), options.pretrained)
        deadline = time.monotonic() + 60 * options.max_minutes
        for model in options.models:
            if not study.run(model, deadline):
                print("out of --max_minutes: the same command goes on", flush=True)
                return
    except (OSError, ValueError, ImportError) as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main(sys.argv[1:])
