"""A task of a few random sequences, some of which overlap."""

from pathlib import Path

import numpy as np


def letters(generator: np.random.Generator, length: int) -> str:
    """A random sequence."""
    return "".join(generator.choice(list("ACGT"), length))


def write_table(path: Path, count: int = 60, length: int = 60, seed: int = 0) -> list[str]:
    """A CSV of sequences, every third of which begins within its predecessor; class 1 has a motif."""
    generator = np.random.default_rng(seed)
    sequences: list[str] = []
    for number in range(count):
        new = letters(generator, length)
        if number % 3 == 2:
            new = sequences[-1][20:] + new[: length - len(sequences[-1][20:])]
        if number % 2:
            new = new[:50] + "TATAA" + new[55:]
        sequences.append(new)
    rows = [f"{sequence},{number % 2}" for number, sequence in enumerate(sequences)]
    path.write_text("seq,label\n" + "\n".join(rows) + "\n")
    return sequences
