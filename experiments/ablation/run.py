"""Takes the memory's components away one by one, and tries its other settings: the paper's Table 5, small.

    python -m experiments.ablation.run --data_dir=DATA

trains the cases of experiments/configs/ablation.py three times over: on the books of DATA/text, for bits per byte; on
the needles of experiments/needle_in_a_haystack, for what is left after a long distance; and on streams, for what a
memory is worth that has read two million bytes. The same command continues where it was interrupted.
"""

import dataclasses
from pathlib import Path
from typing import Any

from experiments import command
from experiments.ablation.cases import make_cases
from experiments.ablation.report import REPORT
from experiments.ablation.streams import StreamConfig, Streams
from experiments.comparison import StudyConfig, run_study
from experiments.language_modeling.task import TextConfig, TextTask, with_vocabulary
from experiments.needle_in_a_haystack.task import NeedleConfig, Needles
from titans_jax import TitansConfig
from titans_jax.data import load_tokenizer
from titans_jax.fields import (
    check_fields,
    field,
    instance_of,
    positive_int,
    several,
    string,
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


def main(config: AblationConfig, workdir: Path, data: Path) -> dict[str, Any]:
    """Runs what is missing of the studies and returns the results."""
    text, needles = TextTask(data, config.text), Needles(data, config.needles)
    tokenizer = load_tokenizer(config.streams.tokenizer)
    streams = Streams(data, config.streams, tokenizer) if config.stream_cases else None
    reader = with_vocabulary(config.model, text.tokenizer)
    finder = with_vocabulary(config.needles.model, needles.tokenizer)
    carrier = with_vocabulary(config.streams.model, tokenizer)
    reading = make_cases(config.cases, config.chunks, reader)
    finding = make_cases(config.needle_cases, config.needle_chunks, finder, "config.needle_cases")
    carrying = make_cases(config.stream_cases, (), carrier, "config.stream_cases")
    return {
        "text": run_study(text, reading, config.study, workdir / "text"),
        "needles": run_study(needles, finding, config.needles.study, workdir / "needles"),
        "streams": None if streams is None else streams.run(carrying, workdir / "streams"),
    }


if __name__ == "__main__":
    command.study(main, REPORT, AblationConfig, "ablation", data=True)
