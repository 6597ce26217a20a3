"""The classification tasks: official GenomicBenchmarks folders by name, or a re-split table of their test part.

A task NAME is looked for as `DIR/human_NAME` or `DIR/NAME` (an official folder: its test part is the test, a tenth of
its training part validation), then as `DIR/test_human_NAME.csv` or `DIR/NAME.csv`: one table, split 70/10/20. DIR may
also be the folder above, where they are in `genomic/`. A table is a demonstration on a quarter of the data, not
comparable with published numbers. Every split keeps sequences that share 32 nucleotides together (splits.py); an
official test part shares some with training, and how many is reported.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Int

from experiments.comparison.store import fingerprint
from experiments.genomics.classifier_training import Examples
from experiments.genomics.leak_free_split import FRACTIONS, groups, kmers, split
from titans_jax.data.genomic import PARTS, LabelledSequences, read_benchmark, read_table
from titans_jax.data.nucleotides import NucleotideTokenizer

#: Top-1 accuracy in per cent of the paper's Table 4 (LMM, full data).
PAPER = {
    "enhancers_cohn": 75.2,
    "enhancers_ensembl": 89.6,
    "ensembl_regulatory": 89.3,
    "nontata_promoters": 96.6,
    "ocr_ensembl": 79.9,
}
VALID = {"train": 0.9, "valid": 0.1}


class Task(NamedTuple):
    """A task with its parts.

    Attributes:
        train: what is learned from.
        valid: what rates and epochs are chosen by.
        test: what is reported.
        classes: names of the classes.
        description: all that says which data these are, as JSON values.
    """

    train: Examples
    valid: Examples
    test: Examples
    classes: tuple[str, ...]
    description: dict[str, Any]


def load_task(
    name: str, data_dir: str | Path, tokenizer: NucleotideTokenizer, split_seed: int = 0
) -> Task:
    """Reads and splits a task.

    Args:
        name: one of `PAPER`, or the name of any folder or table of the same form.
        data_dir: the folder.
        tokenizer: for the models.
        split_seed: of the split.

    Raises:
        FileNotFoundError: if no such task is in the folder.
        ValueError: if it cannot be read.
    """
    found = _find(name, Path(data_dir))
    if found.is_dir():
        parts = read_benchmark(found)
        both = [_plain(parts[part]) for part in PARTS]
        group = groups(both[0])
        chosen = split(group, split_seed, VALID)
        train_kmers = np.unique(np.concatenate([kmers(ids) for ids in both[0]]))
        shared = sum(bool(np.isin(kmers(ids), train_kmers).any()) for ids in both[1])
        data = {part: _pick(parts["train"], chosen[part]) for part in VALID} | {
            "test": parts["test"]
        }
        said = {"demonstration": False, "test_sharing_32_with_train": shared}
    else:
        table = read_table(found)
        group = groups(_plain(table))
        chosen = split(group, split_seed, FRACTIONS)
        data = {part: _pick(table, chosen[part]) for part in FRACTIONS}
        said = {"demonstration": True, "test_sharing_32_with_train": 0}
    length = max(len(sequence) for part in data.values() for sequence in part.sequences)
    examples = {part: _examples(data[part], tokenizer, length) for part in data}
    description = {
        "name": name,
        "source": found.name,
        **said,
        "split_seed": split_seed,
        "groups": int(group.max()) + 1,
        "largest_group": int(np.bincount(group).max()),
        "length": length,
        "sizes": {part: len(examples[part].labels) for part in examples},
        "largest_class": {
            part: float(np.bincount(examples[part].labels).max() / len(examples[part].labels))
            for part in examples
        },
        "sha256": fingerprint(array.tobytes() for part in examples.values() for array in part),
    }
    classes = data["train"].classes
    return Task(examples["train"], examples["valid"], examples["test"], classes, description)


def _find(name: str, data_dir: Path) -> Path:
    roots = [data_dir, data_dir / "genomic"]
    places = [root / folder for root in roots for folder in (f"human_{name}", name)]
    tables = [root / f"{table}.csv" for root in roots for table in (f"test_human_{name}", name)]
    for path in places:
        if path.is_dir():
            return path
    for path in tables:
        if path.is_file():
            return path
    wanted = ", ".join(str(path) for path in [*places, *tables])
    raise FileNotFoundError(
        f"task {name!r}: none of {wanted} is there; tasks of the paper are {', '.join(PAPER)}"
    )


def _plain(part: LabelledSequences) -> list[Int[np.ndarray, "_"]]:
    """Ids by which sequences are compared: in upper case."""
    return _encoded(part, NucleotideTokenizer())


def _encoded(part: LabelledSequences, tokenizer: NucleotideTokenizer) -> list[Int[np.ndarray, "_"]]:
    encoded = []
    for sequence, source in zip(part.sequences, part.sources, strict=True):
        try:
            encoded.append(tokenizer.encode(sequence))
        except ValueError as error:
            raise ValueError(f"{source}: {error}") from error
    return encoded


def _pick(part: LabelledSequences, rows: Sequence[int] | np.ndarray) -> LabelledSequences:
    return LabelledSequences(
        [part.sequences[row] for row in rows],
        part.labels[rows],
        part.classes,
        [part.sources[row] for row in rows],
    )


def _examples(part: LabelledSequences, tokenizer: NucleotideTokenizer, length: int) -> Examples:
    encoded = _encoded(part, tokenizer)
    unknown = tokenizer.encode(b"N")[0]
    strands = np.full((len(encoded), 2, length), unknown, np.int8)
    for row, ids in enumerate(encoded):
        strands[row, 0, : len(ids)] = ids
        strands[row, 1, : len(ids)] = tokenizer.reverse_complement(ids)
    return Examples(strands, np.array([len(ids) for ids in encoded], np.int32), part.labels)


def sizes_line(description: Mapping[str, Any]) -> str:
    """One sentence about the parts, for pages."""
    sizes = description["sizes"]
    return (
        f"{sizes['train']:,} sequences for training, {sizes['valid']:,} for validation, {sizes['test']:,} for the "
        f"test, up to {description['length']} nucleotides"
    )
