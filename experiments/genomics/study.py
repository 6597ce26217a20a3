"""A study of a task: the same learning rates for every model with the first seed, the chosen one with all seeds."""

from __future__ import annotations

import dataclasses
import time
from pathlib import Path
from typing import Any

from flax import nnx

from experiments.comparison.provenance import provenance
from experiments.comparison.report import write_results
from experiments.genomics.metrics import judge
from experiments.genomics.models import PRETRAINED, Size, build, count, from_language_model
from experiments.genomics.records import Records, best_rate
from experiments.genomics.report import markdown, plot
from experiments.genomics.tasks import Task
from experiments.genomics.training import FitConfig, Fitted, fit, log_loss, predict

#: The CNN's passes over the training part, as published, where the others have fewer: each costs it next to nothing.
CNN_EPOCHS = 10


@dataclasses.dataclass(frozen=True)
class Settings:
    """What the trainings of a study have in common.

    Attributes:
        rates: learning rates.
        seeds: of parameters, order and strands; the first one chooses the rate.
        fit: how models are trained.
        size: of the language models.
        vocab_size: of the tokenizer.
    """

    rates: tuple[float, ...]
    seeds: tuple[int, ...]
    fit: FitConfig
    size: Size
    vocab_size: int


class Study:
    """Trains what is missing."""

    def __init__(
        self,
        task: Task,
        settings: Settings,
        output: Path,
        command: str,
        pretrained: str | None = None,
    ):
        """Reads what was trained before.

        Args:
            task: the data.
            settings: how.
            output: path of the JSON, the page and the picture, without a suffix.
            command: for the page.
            pretrained: folder of the language model from which the model "pretrained" starts.

        Raises:
            ValueError: if the JSON holds trainings of another task or with other settings.
        """
        self.task, self.settings, self.output = task, settings, output
        self.pretrained = pretrained
        shared = {"task": task.description, "settings": _plain(dataclasses.asdict(settings))}
        self.records = Records(output.with_suffix(".json"), shared, command)

    def run(self, model: str, deadline: float) -> bool:
        """Trains what is missing of a model.

        Args:
            model: its name.
            deadline: of `time.monotonic()`, after which no training starts.

        Returns:
            Whether all is there.
        """
        kept: dict[float, nnx.Module] = {}
        first, *_ = self.settings.seeds
        for rate in self.settings.rates:
            if self.records.find(model, rate, first) is None:
                if time.monotonic() > deadline:
                    return False
                fitted, record = self._train(model, rate, first)
                if fitted is not None:
                    kept[rate] = fitted.model
                self._write(record)
        chosen = best_rate(self.records.content, model)
        if chosen is None:
            return True
        for seed in self.settings.seeds:
            found = self.records.find(model, chosen, seed)
            if found is not None and (found["selection"] is None or "test" in found):
                continue
            if time.monotonic() > deadline:
                return False
            if found is not None and seed == first and chosen in kept:
                self._write({**found, "test": self._test(model, kept[chosen])})
                continue
            fitted, record = self._train(model, chosen, seed)
            if fitted is not None:
                record["test"] = self._test(model, fitted.model)
            self._write(record)
        return True

    def _config(self, model: str) -> FitConfig:
        fit_config = self.settings.fit
        if model != "cnn":
            return fit_config
        return dataclasses.replace(fit_config, epochs=max(CNN_EPOCHS, fit_config.epochs))

    def _train(self, model: str, rate: float, seed: int) -> tuple[Fitted | None, dict[str, Any]]:
        """One training and its record, untested; nothing was fitted where it diverged."""
        began = time.process_time()
        classes, length = len(self.task.classes), self.task.train.strands.shape[2]
        settings, config = self.settings, self._config(model)
        if model == PRETRAINED:
            if self.pretrained is None:
                raise ValueError("the model 'pretrained' needs --pretrained")
            built: Any = from_language_model(self.pretrained, settings.vocab_size, classes, seed)
        else:
            built = build(model, settings.vocab_size, length, classes, settings.size, seed)
        record: dict[str, Any] = {"model": model, "rate": rate, "seed": seed}
        record |= {"parameters": count(built), "epochs": config.epochs, "selection": None}
        fitted = None
        try:
            fitted = fit(
                built, config, self.task.train, self.task.valid, learning_rate=rate, seed=seed
            )
            logits, labels = fitted.valid, self.task.valid.labels
            record |= {"selection": log_loss(logits, labels), "valid": judge(logits, labels)}
            record |= {"best_epoch": fitted.best + 1, "curve": fitted.curve}
        except FloatingPointError as error:
            record["diverged"] = str(error)
        return fitted, record | {"cpu_seconds": time.process_time() - began, **provenance()}

    def _test(self, model: str, fitted: nnx.Module) -> dict[str, Any]:
        return judge(predict(fitted, self.task.test, self._config(model)), self.task.test.labels)

    def _write(self, record: dict[str, Any]) -> None:
        self.records.add(record)
        write_results(self.records.content, self.output, markdown, plot)
        said = "diverged" if record["selection"] is None else f"valid {record['selection']:.4f}"
        if "test" in record:
            said += f", test accuracy {record['test']['accuracy']:.4f}"
        print(
            f"{self.task.description['name']} {record['model']} rate {record['rate']:g} seed {record['seed']}: {said}, "
            f"{record['cpu_seconds']:.0f} CPU-seconds",
            flush=True,
        )


def _plain(tree: Any) -> Any:
    """Tuples as lists, as JSON has them."""
    if isinstance(tree, dict):
        return {key: _plain(value) for key, value in tree.items()}
    return [_plain(value) for value in tree] if isinstance(tree, tuple) else tree
