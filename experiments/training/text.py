"""The text of a run: read, divided, tokenized, and served as batches."""

import hashlib
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import grain

from experiments.training.config import TrainConfig
from titans_jax.config import TitansConfig
from titans_jax.data.pipeline import make_pipeline
from titans_jax.data.sources import Document, read_documents, split_documents
from titans_jax.data.tokenizers import TokenizedText, Tokenizer, tokenize


class Text(NamedTuple):
    """Training and validation text of a run."""

    train: TokenizedText
    valid: TokenizedText
    valid_bytes: (
        bytes  # what the yardsticks compress: exactly the bytes that the model is scored on
    )
    fingerprint: str  # SHA-256 of both parts


def load_text(config: TrainConfig, tokenizer: Tokenizer) -> Text:
    """Reads config.data.path.

    Raises:
      FileNotFoundError: nothing is there.
      ValueError: it holds no text, or less than one sequence.
    """
    data = config.data
    try:
        train, valid = split_documents(
            read_documents(data.path), data.valid_fraction, seed=config.seed
        )
    except (FileNotFoundError, ValueError) as error:
        raise type(error)(f"config.data.path={data.path!r}: {error}") from error
    valid = _shortened(valid, data.valid_bytes)
    tokens = tokenize(train, tokenizer)
    if tokens.target_tokens < data.sequence_length:
        raise ValueError(
            f"config.data.path={data.path!r}: its {tokens.target_tokens:,} training tokens are fewer than one sequence "
            f"of config.data.sequence_length={data.sequence_length}; give more text or shorter sequences"
        )
    digest = hashlib.sha256()
    for part in (train, valid):
        for document in part:
            digest.update(hashlib.sha256(document.text).digest())
        digest.update(b"|")
    return Text(
        tokens, tokenize(valid, tokenizer), b"".join(d.text for d in valid), digest.hexdigest()
    )


def train_batches(config: TrainConfig, text: Text) -> grain.DatasetIterator:
    """Returns the endless, shuffled, checkpointable iterator over training batches."""
    return iter(_batches(config, text.train, shuffle=True, repeat=True))


def valid_batches(config: TrainConfig, text: Text) -> grain.IterDataset:
    """Returns the validation batches in order, in which every token is a target once."""
    return _batches(config, text.valid, shuffle=False, repeat=False)


def alignment(model: TitansConfig) -> int:
    """Returns the tokens between places where a document may start: memory chunks, and segments of MAC."""
    return (
        math.lcm(model.memory.chunk, model.segment)
        if model.variant == "mac"
        else model.memory.chunk
    )


def _batches(
    config: TrainConfig, tokens: TokenizedText, *, shuffle: bool, repeat: bool
) -> grain.IterDataset:
    batches = make_pipeline(
        tokens.documents,
        sequence_length=config.data.sequence_length,
        batch_size=config.batch_size,
        seed=config.seed,
        shuffle=shuffle,
        repeat=repeat,
        packing=config.data.packing,
        alignment=alignment(config.model),
    )
    # No document starts inside a streamed sequence, and a model that knows it has less to do.
    return batches.map(_without_reset) if config.data.packing == "stream" else batches


def _without_reset(batch: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in batch.items() if name != "reset"}


def _shortened(documents: Sequence[Document], limit: int) -> list[Document]:
    if not limit:
        return list(documents)
    kept = []
    for document in documents:
        text = document.text[:limit]
        limit -= len(text)
        if text:
            kept.append(document._replace(text=text))
    return kept
