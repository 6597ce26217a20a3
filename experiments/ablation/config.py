"""Configuration of the ablation."""

import dataclasses

from experiments.comparison import StudyConfig
from experiments.language_modeling.config import TextConfig
from experiments.needle_in_a_haystack.config import NeedleConfig
from experiments.training.config import OptimizerConfig
from titans_jax import TitansConfig
from titans_jax.config import is_count, require


@dataclasses.dataclass(frozen=True)
class StreamConfig:
    """Models that carry their memory through a long text, in training and in testing (streams.py).

    Attributes:
      model: the base.
      prose: texts under --data_dir, a pattern.
      held_out: fraction of them that is not trained on, whole texts; the stream is read from it.
      tokenizer: "bytes", or a tokenizer file.
      length: tokens of a window in training, through which the gradient goes.
      batch_size: windows of a batch.
      steps: of a training.
      optimizer: one learning rate for all.
      tokens: of the stream, a power of two.
      seeds: of parameters and of the places in the text; the texts held out are the same for all.
    """

    model: TitansConfig = dataclasses.field(default_factory=TitansConfig)
    prose: str = "text/train_*.txt"
    held_out: float = 0.17
    tokenizer: str = "bytes"
    length: int = 1024
    batch_size: int = 2
    steps: int = 300
    optimizer: OptimizerConfig = dataclasses.field(default_factory=OptimizerConfig)
    tokens: int = 2_097_152
    seeds: tuple[int, ...] = (0, 1)

    def __post_init__(self) -> None:
        for name in ("length", "batch_size", "steps"):
            value = getattr(self, name)
            require(is_count(value), f"config.streams.{name}", value, "a positive integer")
        require(0 < self.held_out < 1, "config.streams.held_out", self.held_out, "in (0, 1)")
        require(
            is_count(self.tokens, 1024) and not self.tokens & (self.tokens - 1),
            "config.streams.tokens",
            self.tokens,
            "a power of two of at least 1024",
        )
        require(
            bool(self.seeds) and len(set(self.seeds)) == len(self.seeds),
            "config.streams.seeds",
            self.seeds,
            "at least one, none twice",
        )


@dataclasses.dataclass(frozen=True)
class AblationConfig:
    """Everything that decides the ablation.

    Attributes:
      cases: names, see cases.py.
      chunks: chunk sizes that the base is also tried with.
      model: the base of the language models.
      text: see TextConfig.
      study: of the language models.
      needle_cases: names of the cases that are asked for needles.
      needle_chunks: chunk sizes likewise.
      needles: see NeedleConfig; its `model` is the base there, and its `models` are not used.
      stream_cases: names of the cases that read a long text; none for no stream.
      streams: see StreamConfig; its `model` is the base there.
    """

    cases: tuple[str, ...] = ("base",)
    chunks: tuple[int, ...] = ()
    model: TitansConfig = dataclasses.field(default_factory=TitansConfig)
    text: TextConfig = dataclasses.field(default_factory=TextConfig)
    study: StudyConfig = dataclasses.field(default_factory=StudyConfig)
    needle_cases: tuple[str, ...] = ("base",)
    needle_chunks: tuple[int, ...] = ()
    needles: NeedleConfig = dataclasses.field(default_factory=NeedleConfig)
    stream_cases: tuple[str, ...] = ()
    streams: StreamConfig = dataclasses.field(default_factory=StreamConfig)
