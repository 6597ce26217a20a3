"""Pretraining on any FASTA, by the next nucleotide or by hidden ones (objectives.py).

    python -m experiments.genomics.pretrain --fasta=GENOME.fa --output=FOLDER --objective=next

Records are cut into pieces; one in twenty is kept for validation. Each piece is read on a strand drawn at random.
FOLDER gets the model in the Hugging Face layout and pretrain.json with the loss of both parts, beside that of the
nucleotides' frequencies. The genome lies in RAM, a byte a nucleotide; a training that was interrupted starts anew.
`experiments.genomics.run --models=pretrained --pretrained=FOLDER` fine-tunes the model.
"""

from __future__ import annotations

import dataclasses
import functools
import math
import time
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

from experiments import command
from experiments.comparison.store import provenance, write_json
from experiments.genomics.classifiers import MATCHED, Size, language_model
from experiments.genomics.objectives import alphabet, masked_loss, next_loss
from experiments.training.config import OptimizerConfig
from experiments.training.optimizer import make_optimizer
from titans_jax.config import Variant
from titans_jax.data.genomic import read_fasta
from titans_jax.data.nucleotides import NucleotideTokenizer
from titans_jax.fields import (
    check_fields,
    field,
    flag,
    given,
    one_of,
    positive,
    positive_int,
    random_seed,
    require,
)
from titans_jax.inference.pretrained import save_pretrained
from titans_jax.models.language_model import Titans
from titans_jax.typing import Array, Int, PyTree

VALID_FRACTION = 0.05
VALID_BATCHES = 20
LOG_EVERY = 50


class Pieces(NamedTuple):
    """Pieces of a genome.

    Attributes:
        strands: each piece and its reverse complement, filled with N behind.
        lengths: of the pieces.
    """

    strands: Int[np.ndarray, "N 2 T"]
    lengths: Int[np.ndarray, "N"]


def cut(fasta: str | Path, tokenizer: NucleotideTokenizer, length: int) -> Pieces:
    """The pieces of a FASTA; those that are half N or more are left out.

    Args:
        fasta: the file.
        tokenizer: of the model.
        length: of a piece; the last of a record may be shorter.

    Raises:
        ValueError: if there are fewer than two pieces, or a letter is no nucleotide.
    """
    unknown = tokenizer.encode(b"N")[0]
    strands, lengths = [], []
    for name, letters in read_fasta(fasta):
        try:
            ids = tokenizer.encode(letters).astype(np.int8)
        except ValueError as error:
            raise ValueError(f"{fasta}, record {name!r}: {error}") from error
        for start in range(0, len(ids), length):
            piece = ids[start : start + length]
            if 2 * np.isin(piece, tokenizer.encode(b"Nn")).sum() >= len(piece):
                continue
            both = np.full((2, length), unknown, np.int8)
            both[0, : len(piece)] = piece
            both[1, : len(piece)] = tokenizer.reverse_complement(piece)
            strands.append(both)
            lengths.append(len(piece))
    require(
        len(lengths) > 1,
        f"{fasta}",
        f"{len(lengths)} pieces",
        f"a FASTA with at least two pieces of {length} nucleotides, fewer than half of them N",
    )
    return Pieces(np.stack(strands), np.array(lengths, np.int32))


@dataclasses.dataclass(frozen=True)
class PretrainConfig:
    """What is trained.

    Attributes:
      fasta: the file.
      output: folder of the model.
      objective: next or masked.
      variant: lmm, or a baseline of as many parameters.
      dim: of the LMM; another variant is matched to it.
      layers: of the LMM.
      length: nucleotides of a piece.
      steps: optimizer steps.
      batch_size: pieces per step.
      learning_rate: the peak.
      seed: of parameters, order, strands and masks.
      keep_case: lower-case letters are tokens of their own.
    """

    fasta: str = field("", given)
    output: str = field("", given)
    objective: str = field("next", one_of(("next", "masked")))
    variant: Variant = field("lmm", one_of(("lmm", *MATCHED)))
    dim: int = field(32, positive_int)
    layers: int = field(1, positive_int)
    length: int = field(256, positive_int)
    steps: int = field(500, positive_int)
    batch_size: int = field(16, positive_int)
    learning_rate: float = field(5e-3, positive)
    seed: int = field(0, random_seed)
    keep_case: bool = field(False, flag)

    def __post_init__(self) -> None:
        check_fields(self)


def pretrain(options: PretrainConfig) -> dict[str, Any]:
    """Trains and saves a model.

    Args:
        options: see `PretrainConfig`.

    Returns:
        What pretrain.json holds.

    Raises:
        FloatingPointError: if the loss stops being finite.
    """
    began = time.perf_counter()
    tokenizer = NucleotideTokenizer(keep_case=options.keep_case)
    config = language_model(
        options.variant, tokenizer.vocab_size, Size(options.dim, options.layers)
    )
    pieces = cut(options.fasta, tokenizer, options.length)
    generator = np.random.default_rng(options.seed)
    order = generator.permutation(len(pieces.lengths))
    held = max(1, round(VALID_FRACTION * len(order)))
    valid, train = order[:held], order[held:]
    graph, initial = nnx.split(Titans(config, rngs=nnx.Rngs(options.seed)))
    parameters = nnx.to_pure_dict(initial)
    step, loss, optimizer = _compiled(graph, options, tokenizer)
    state, key = optimizer.init(parameters), jax.random.key(options.seed)
    batch = min(options.batch_size, len(train))
    drawn: np.ndarray = np.zeros(0, int)
    curve: list[list[float]] = []
    recent: list[Array] = []
    for index in range(options.steps):
        if len(drawn) < batch:
            drawn = generator.permutation(train)
        rows, drawn = drawn[:batch], drawn[batch:]
        side = generator.integers(0, 2, batch)
        key, own = jax.random.split(key)
        parameters, state, value = step(
            parameters, state, pieces.strands[rows, side], pieces.lengths[rows], own
        )
        recent.append(value)
        if (index + 1) % LOG_EVERY == 0 or index + 1 == options.steps:
            curve.append([index + 1, float(np.mean(jax.device_get(recent)))])
            recent = []
            print(f"step {index + 1}: loss {curve[-1][1]:.4f} nats per nucleotide", flush=True)
            if not math.isfinite(curve[-1][1]):
                raise FloatingPointError(
                    f"the loss at step {index + 1} is {curve[-1][1]}: lower --learning_rate={options.learning_rate}"
                )
    judged = [
        float(loss(parameters, pieces.strands[rows, 0], pieces.lengths[rows], jax.random.key(n)))
        for n, rows in enumerate(np.resize(valid, (min(VALID_BATCHES, -(-held // batch)), batch)))
    ]
    output = Path(options.output)
    save_pretrained(nnx.merge(graph, parameters), output)
    record = {
        **{
            name: value
            for name, value in dataclasses.asdict(options).items()
            if name not in ("fasta", "output")
        },
        "fasta": Path(options.fasta).name,
        "pieces": {"train": len(train), "valid": held},
        "valid_loss": float(np.mean(judged)),
        "frequencies_loss": _entropy(pieces, valid, alphabet(tokenizer).unknown),
        "curve": curve,
        "seconds": time.perf_counter() - began,
        **provenance(),
    }
    write_json(output / "pretrain.json", record)
    return record


def _entropy(pieces: Pieces, rows: np.ndarray, unknown: tuple[int, ...]) -> float:
    """Nats per nucleotide of a model that knows the nucleotides' frequencies in these pieces, and nothing else."""
    counts = np.bincount(pieces.strands[rows].ravel()).astype(float)
    counts[[index for index in unknown if index < len(counts)]] = 0
    share = counts[counts > 0] / counts.sum()
    return float(-(share * np.log(share)).sum())


def _compiled(
    graph: nnx.GraphDef, options: PretrainConfig, tokenizer: NucleotideTokenizer
) -> tuple[Any, Any, optax.GradientTransformation]:
    optimizer = make_optimizer(OptimizerConfig(learning_rate=options.learning_rate), options.steps)
    letters = alphabet(tokenizer)

    def loss(parameters: PyTree, tokens: Array, lengths: Array, key: Array) -> Array:
        model, ids = nnx.merge(graph, parameters), tokens.astype(jnp.int32)
        if options.objective == "next":
            return next_loss(model, ids, lengths, letters)
        return masked_loss(model, ids, lengths, letters, key)

    @functools.partial(jax.jit, donate_argnums=(0, 1))
    def step(
        parameters: PyTree, state: PyTree, tokens: Array, lengths: Array, key: Array
    ) -> tuple[PyTree, PyTree, Array]:
        value, gradients = jax.value_and_grad(loss)(parameters, tokens, lengths, key)
        updates, state = optimizer.update(gradients, state, parameters)
        return optax.apply_updates(parameters, updates), state, value

    return step, jax.jit(loss), optimizer


def main() -> None:
    """Pretrains, and says what came of it."""
    record = pretrain(command.read_fields(PretrainConfig))
    print(
        f"validation: {record['valid_loss']:.4f} nats per nucleotide; "
        f"frequencies alone: {record['frequencies_loss']:.4f}"
    )


if __name__ == "__main__":
    command.run(main, lambda: command.define_fields(PretrainConfig))
