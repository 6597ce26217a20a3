"""Classification of DNA (paper, section 5.7 and Table 4): an LMM beside its baselines.

    python -m experiments.genomics.run --task=nontata_promoters --data_dir=DIR

Every model is trained at the same learning rates with the first seed; validation chooses, and the chosen rate is
trained with the other seeds. The same command goes on with what is missing; WORKDIR/TASK.json, its page and its picture
are what came out. A language model that experiments.genomics.pretrain left is one more: --models=lmm,pretrained
--pretrained=FOLDER.
"""

import dataclasses
import functools
from pathlib import Path
from typing import Any

from experiments import command
from experiments.comparison.config import SELECTION
from experiments.comparison.store import fingerprint, plain
from experiments.comparison.study import Training, compare, kept
from experiments.genomics.classifier_training import FitConfig, fit, judge, log_loss, predict
from experiments.genomics.classifiers import (
    PRETRAINED,
    TITLES,
    Size,
    build,
    count,
    from_language_model,
)
from experiments.genomics.report import REPORT
from experiments.genomics.tasks import Task, load_task
from titans_jax.data.nucleotides import NucleotideTokenizer
from titans_jax.fields import (
    check_fields,
    field,
    flag,
    given,
    non_negative,
    one_of,
    positive,
    positive_int,
    random_seed,
    require,
    several,
    string,
)

#: The CNN's passes over the training part, as published, where the others have fewer: each costs it next to nothing.
CNN_EPOCHS = 10


@dataclasses.dataclass(frozen=True)
class GenomicsConfig:
    """What is trained.

    Attributes:
      task: a task of GenomicBenchmarks (tasks.py), or a folder's or table's name in DIR.
      models: names, with commas between (classifiers.py).
      pretrained: folder of a language model, where the model 'pretrained' starts.
      rates: learning rates, with commas between.
      seeds: of parameters, order and strands, with commas between; the first chooses the rate.
      epochs: of the language models; the CNN has at least 10.
      batch_size: sequences per step.
      weight_decay: of AdamW.
      dim: of the LMM; baselines are matched to it.
      layers: of the LMM.
      keep_case: lower-case letters are tokens of their own.
      one_strand: no reverse complements.
      split_seed: of the split.
      max_minutes: start no training after so long; 0 for no limit.
    """

    task: str = field("", given)
    models: tuple[str, ...] = field(
        tuple(name for name in TITLES if name != PRETRAINED), several(one_of(TITLES))
    )
    pretrained: str = field("", string)
    rates: tuple[float, ...] = field((0.004, 0.008), several(positive, distinct=True))
    seeds: tuple[int, ...] = field((0, 1, 2), several(random_seed, distinct=True))
    epochs: int = field(4, positive_int)
    batch_size: int = field(16, positive_int)
    weight_decay: float = field(0.1, non_negative)
    dim: int = field(32, positive_int)
    layers: int = field(1, positive_int)
    keep_case: bool = field(False, flag)
    one_strand: bool = field(False, flag)
    split_seed: int = field(0, random_seed)
    max_minutes: float = field(0.0, non_negative)

    def __post_init__(self) -> None:
        check_fields(self)
        right = PRETRAINED not in self.models or bool(self.pretrained)
        wanted = "the folder of a language model, where models has 'pretrained'"
        require(right, "pretrained", self.pretrained, wanted)

    def fit(self, model: str) -> FitConfig:
        """How a model is trained."""
        epochs = max(CNN_EPOCHS, self.epochs) if model == "cnn" else self.epochs
        return FitConfig(epochs, self.batch_size, self.weight_decay, not self.one_strand)


class Trainer:
    """Trains and judges the models of a task."""

    def __init__(self, config: GenomicsConfig, data: Path):
        """Reads and splits the task.

        Raises:
          OSError: it is not there.
          ValueError: it cannot be read.
        """
        self.config = config
        tokenizer = NucleotideTokenizer(keep_case=config.keep_case)
        self.vocab_size = tokenizer.vocab_size
        self.task: Task = load_task(config.task, data, tokenizer, config.split_seed)

    def training(self, model: str, rate: float, workdir: Path, seed: int) -> Training:
        """One training, to be run or read."""
        folder = workdir / self.config.task / model / f"rate_{rate:g}" / f"seed_{seed}"
        key = {
            "task": self.task.description,
            "model": model,
            "rate": rate,
            "seed": seed,
            "fit": dataclasses.asdict(self.config.fit(model)),
            "vocab_size": self.vocab_size,
            "started_from": self._started_from(model),
        }
        return kept(folder, plain(key), lambda: self._train(model, rate, seed))

    def _started_from(self, model: str) -> Any:
        if model == "cnn":
            return None
        if model != PRETRAINED:
            return {"dim": self.config.dim, "layers": self.config.layers}
        files = [path for path in sorted(Path(self.config.pretrained).iterdir()) if path.is_file()]
        return fingerprint(path.read_bytes() for path in files)

    def _train(self, model: str, rate: float, seed: int) -> dict[str, Any]:
        """Trains, and judges the best epoch; there is nothing to judge where training diverged."""
        built, task, config = self._build(model, seed), self.task, self.config.fit(model)
        record = {"parameters": count(built), "results": None}
        try:
            fitted = fit(built, config, task.train, task.valid, learning_rate=rate, seed=seed)
        except FloatingPointError as error:
            return {**record, "diverged": str(error)}
        selection = log_loss(fitted.valid, task.valid.labels)
        tested = judge(predict(fitted.model, task.test, config), task.test.labels)
        return {
            **record,
            "valid": judge(fitted.valid, task.valid.labels),
            "best_epoch": fitted.best + 1,
            "losses": fitted.curve,
            "results": {SELECTION: selection, **tested},
        }

    def _build(self, model: str, seed: int) -> Any:
        """A model with its initial parameters."""
        classes, length = len(self.task.classes), self.task.train.strands.shape[2]
        if model == PRETRAINED:
            return from_language_model(self.config.pretrained, self.vocab_size, classes, seed)
        size = Size(self.config.dim, self.config.layers)
        return build(model, self.vocab_size, length, classes, size, seed)


def main(config: GenomicsConfig, workdir: Path, data: Path) -> dict[str, Any]:
    """Runs what is missing and returns the results."""
    trainer = Trainer(config, data)
    trainings = {
        model: {
            f"rate {rate:g}": functools.partial(trainer.training, model, rate, workdir)
            for rate in config.rates
        }
        for model in config.models
    }
    if PRETRAINED in config.models:
        trainer._build(PRETRAINED, 0)  # what does not fit is said before any training
    found = compare(trainings, config.seeds, hours=config.max_minutes / 60)
    epochs = {model: config.fit(model).epochs for model in config.models}
    return {
        "name": config.task,
        "task": trainer.task.description,
        "config": {"rates": list(config.rates), "seeds": list(config.seeds), "epochs": epochs},
        **found,
    }


if __name__ == "__main__":
    command.study(main, REPORT, GenomicsConfig, "genomics", data=True, file=False)
