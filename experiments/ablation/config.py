"""Configuration of the ablation."""

import dataclasses

from experiments.comparison import StudyConfig
from experiments.language_modeling.config import TextConfig
from experiments.needle_in_a_haystack.config import NeedleConfig
from experiments.training.config import OptimizerConfig
from titans_jax import TitansConfig
from titans_jax.fields import (
    check_fields,
    field,
    inside_unit,
    instance_of,
    positive_int,
    random_seed,
    require,
    several,
    string,
    whole,
)


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

    model: TitansConfig = field(TitansConfig(), instance_of(TitansConfig))
    prose: str = field("text/train_*.txt", string)
    held_out: float = field(0.17, inside_unit)
    tokenizer: str = field("bytes", string)
    length: int = field(1024, positive_int)
    batch_size: int = field(2, positive_int)
    steps: int = field(300, positive_int)
    optimizer: OptimizerConfig = field(OptimizerConfig(), instance_of(OptimizerConfig))
    tokens: int = field(2_097_152, whole("a power of two of at least 1024", 1024))
    seeds: tuple[int, ...] = field((0, 1), several(random_seed, distinct=True))

    def __post_init__(self) -> None:
        check_fields(self)
        power = not self.tokens & (self.tokens - 1)
        require(power, "tokens", self.tokens, "a power of two of at least 1024")


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

    cases: tuple[str, ...] = field(("base",), several(string, least=0))
    chunks: tuple[int, ...] = field((), several(positive_int, least=0))
    model: TitansConfig = field(TitansConfig(), instance_of(TitansConfig))
    text: TextConfig = field(TextConfig(), instance_of(TextConfig))
    study: StudyConfig = field(StudyConfig(), instance_of(StudyConfig))
    needle_cases: tuple[str, ...] = field(("base",), several(string, least=0))
    needle_chunks: tuple[int, ...] = field((), several(positive_int, least=0))
    needles: NeedleConfig = field(NeedleConfig(), instance_of(NeedleConfig))
    stream_cases: tuple[str, ...] = field((), several(string, least=0))
    streams: StreamConfig = field(StreamConfig(), instance_of(StreamConfig))

    def __post_init__(self) -> None:
        check_fields(self)
