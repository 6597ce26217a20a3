"""The text of a run: read, divided, tokenized, and served as batches, to each process its share of them.

It comes from raw text, all in memory, or from folders that experiments.prepare_data wrote, whose training tokens stay
on disk.
"""

import dataclasses
import hashlib
import math
import os
import re
from collections.abc import Sequence
from typing import Any, NamedTuple

import grain

from experiments.training.config import TrainConfig
from titans_jax.data.characters import character_start
from titans_jax.data.pipeline import TokenDocuments, make_mixture, make_pipeline
from titans_jax.data.prepared import Prepared, PreparedTokens, is_prepared, open_prepared
from titans_jax.data.sources import Document, read_documents, split_documents
from titans_jax.data.tokenizers import TokenizedText, Tokenizer, tokenize


@dataclasses.dataclass(frozen=True)
class Share:
    """Which of `count` equal parts of every batch a process reads."""

    index: int
    count: int


class Source(NamedTuple):
    """Documents to train on, and the share of the sequences that comes from them."""

    documents: TokenDocuments
    weight: float


class Text(NamedTuple):
    """Training and validation text of a run."""

    train: TokenizedText
    valid: TokenizedText
    valid_bytes: (
        bytes  # what the yardsticks compress: exactly the bytes that the model is scored on
    )
    fingerprint: str  # SHA-256 of both parts
    sources: tuple[Source, ...]  # the training text again, as batches draw from it


def load_text(config: TrainConfig, tokenizer: Tokenizer) -> Text:
    """Reads, or opens, config.data.path.

    Raises:
      FileNotFoundError: nothing is there.
      ValueError: it holds no text, or less than one sequence; or it was prepared with another tokenizer.
    """
    path = config.data.path
    try:
        folders = _folders(path)
        text = _open(config, folders, tokenizer) if folders else _read(config, tokenizer)
    except (FileNotFoundError, ValueError) as error:
        raise type(error)(f"config.data.path={path!r}: {error}") from error
    return text


def train_batches(config: TrainConfig, text: Text, share: Share) -> grain.DatasetIterator:
    """Returns the endless, shuffled, checkpointable iterator over a share of the training batches."""
    if len(text.sources) == 1:
        documents = text.sources[0].documents
        batches = make_pipeline(
            documents,
            shuffle=True,
            repeat=True,
            carry=config.data.carry,
            **_arguments(config, share),
        )
        if config.data.carry:
            return iter(batches)
    elif config.data.carry:
        raise ValueError(
            f"config.data.carry={config.data.carry}: must be 0 where config.data.path has several folders"
        )
    else:
        batches = make_mixture(text.sources, **_arguments(config, share))
    return iter(_for_the_model(config, batches))


def valid_batches(config: TrainConfig, text: Text, share: Share) -> grain.IterDataset:
    """Returns a share of the validation batches in order; in all shares together every token is a target once."""
    batches = make_pipeline(
        text.valid.documents, shuffle=False, repeat=False, **_arguments(config, share)
    )
    return _for_the_model(config, batches)


def _arguments(config: TrainConfig, share: Share) -> dict[str, Any]:
    if config.batch_size % share.count:
        raise ValueError(
            f"config.batch_size={config.batch_size}: must be a multiple of {share.count}, the number of parts that "
            "processes read of it"
        )
    return {
        "sequence_length": config.data.sequence_length,
        "batch_size": config.batch_size // share.count,
        "seed": config.seed,
        "process_index": share.index,
        "process_count": share.count,
        "packing": config.data.packing,
        # Of the memory for models without one too, so that a model and its baseline read the same sequences.
        "alignment": math.lcm(config.model.memory.chunk, config.model.alignment),
    }


def _for_the_model(config: TrainConfig, batches: grain.IterDataset) -> grain.IterDataset:
    # No document starts inside a streamed sequence, and a model that knows it has less to do.
    return batches.map(_without_reset) if config.data.packing == "stream" else batches


def _without_reset(batch: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in batch.items() if name != "reset"}


def _read(config: TrainConfig, tokenizer: Tokenizer) -> Text:
    """Raw text, into memory."""
    data = config.data
    train, valid = split_documents(read_documents(data.path), data.valid_fraction, seed=config.seed)
    valid = _shortened(valid, data.valid_bytes)
    tokens = tokenize(train, tokenizer)
    _check_enough(tokens.target_tokens, data.sequence_length, "its")
    digest = hashlib.sha256()
    for part in (train, valid):
        for document in part:
            digest.update(hashlib.sha256(document.text).digest())
        digest.update(b"|")
    sources = (Source(tokens.documents, 1.0),)
    return Text(tokens, tokenize(valid, tokenizer), _joined(valid), digest.hexdigest(), sources)


def _open(config: TrainConfig, folders: Sequence[tuple[str, float]], tokenizer: Tokenizer) -> Text:
    """Prepared text: the training tokens stay where they are."""
    limit, total_weight = config.data.valid_bytes, sum(weight for _, weight in folders)
    digest = hashlib.sha256()
    opened: list[Prepared] = []
    valid: list[Document] = []
    for folder, weight in folders:
        prepared = open_prepared(folder)
        _check_tokenizer(prepared, config.data.tokenizer, tokenizer)
        tokens = prepared.documents.target_tokens
        _check_enough(tokens, config.data.sequence_length, f"folder {folder!r}: its")
        share = max(1, round(limit * weight / total_weight)) if limit else 0
        valid += _shortened(prepared.valid_documents(share or None), share)
        digest.update(f"{prepared.manifest.fingerprint()} {weight} {share}|".encode())
        opened.append(prepared)
    if not valid:
        raise ValueError(
            "no text was held out to validate with; prepare it again without --valid_fraction=0, or add a folder "
            "that has some"
        )
    everything = PreparedTokens([shard for each in opened for shard in each.documents.shards])
    train = TokenizedText(everything, everything.target_tokens, everything.target_bytes)
    sources = tuple(
        Source(prepared.documents, weight)
        for prepared, (_, weight) in zip(opened, folders, strict=True)
    )
    return Text(train, tokenize(valid, tokenizer), _joined(valid), digest.hexdigest(), sources)


def _folders(path: str) -> list[tuple[str, float]]:
    """Prepared folders and their weights; none if `path` is raw text."""
    if os.path.exists(path):
        return [(path, 1.0)] if is_prepared(path) else []
    parts = [part.strip() for part in path.split(",")]
    matches = [re.fullmatch(r"(.+):([-+.\deE]+|nan|inf)", part) for part in parts]
    if not any(matches):
        return []
    folders = []
    for part, match in zip(parts, matches, strict=True):
        if match is None:
            raise ValueError(f"{part!r} has no weight; write FOLDER:WEIGHT,FOLDER:WEIGHT")
        try:
            weight = float(match[2])
        except ValueError:
            weight = math.nan
        if not (math.isfinite(weight) and weight > 0):
            raise ValueError(
                f"the weight of {match[1]!r} is {match[2]}; it must be a positive number"
            )
        folders.append((match[1], weight))
    return folders


def _check_tokenizer(prepared: Prepared, spec: str, tokenizer: Tokenizer) -> None:
    before, now = prepared.manifest.tokenizer, tokenizer.fingerprint()
    if before != now:
        raise ValueError(
            f"folder {str(prepared.folder)!r} was prepared with another tokenizer (SHA-256 {before[:12]}...) than "
            f"config.data.tokenizer={spec!r} (SHA-256 {now[:12]}...); give that one, or prepare the text again"
        )


def _check_enough(tokens: int, sequence_length: int, whose: str) -> None:
    if tokens < sequence_length:
        raise ValueError(
            f"{whose} {tokens:,} training tokens are fewer than one sequence of "
            f"config.data.sequence_length={sequence_length}; give more text or shorter sequences"
        )


def _shortened(documents: Sequence[Document], limit: int) -> list[Document]:
    """The first `limit` bytes of all documents, or all if 0, cut between characters."""
    if not limit:
        return list(documents)
    kept = []
    for document in documents:
        text = document.text[:limit]
        limit -= len(text)
        if len(text) < len(document.text):
            text = text[: character_start(document.text, len(text))]
        if text:
            kept.append(document._replace(text=text))
    return kept


def _joined(documents: Sequence[Document]) -> bytes:
    return b"".join(document.text for document in documents)
