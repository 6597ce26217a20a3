"""A --data_dir of a few kilobytes with every kind of file, and the flags of models that train on it in seconds."""

import json
from pathlib import Path

WORDS = "the memory writes what surprises it. It forgets what it can! And reads, without writing, in its own time.\n"
PLACES = ("kitchen", "garden", "office", "bathroom")
#: Flags of every experiment whose config has `model` and `study`.
SMALL = (
    "--config.model.dim=16",
    "--config.model.num_layers=1",
    "--config.model.num_heads=2",
    "--config.model.feed_forward=32",
    "--config.model.window=16",
    "--config.model.segment=16",
    "--config.model.memory.num_heads=2",
    "--config.model.memory.chunk=16",
    "--config.study.steps=3",
    "--config.study.learning_rates=(1e-3,)",
)


def write_data(folder: Path) -> Path:
    """Writes texts, questions and stories under `folder`."""
    for name, count in (
        ("train_1", 80),
        ("train_2", 40),
        ("valid_1661", 20),
        ("wikitext103_valid", 20),
    ):
        _write(folder / "text" / f"{name}.txt", "".join(WORDS[i % 30 :] for i in range(count)))
    pick = {"label": 1, "zero_shot": [["What?", " this"], ["What?", " that"]]}
    for name in ("piqa_validation", "arc_easy_test"):
        _write(folder / "evals" / f"{name}.jsonl", json.dumps(pick) + "\n")
    word = {"label": ["time"], "zero_shot": [["in its own", " time"]]}
    _write(folder / "evals" / "lambada_test.jsonl", json.dumps(word) + "\n")
    part = {"label": 0, "zero_shot": [["the cup", " broke."], ["the bed", " broke."]]}
    _write(folder / "evals" / "winogrande_validation.jsonl", json.dumps(part) + "\n")
    for task in (1, 2, 3):
        for split in ("train", "test"):
            _write(folder / "babi" / f"qa{task}_toy_{split}.txt", "".join(map(_story, range(8))))
    return folder


def _story(number: int) -> str:
    place = PLACES[number % len(PLACES)]
    return f"1 Mary moved to the {place}.\n2 John left.\n3 Where is Mary? \t{place}\t1\n"


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
