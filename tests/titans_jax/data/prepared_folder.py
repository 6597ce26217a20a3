"""Prepared folders for tests, written with the library's own writer."""

import hashlib
import zlib
from pathlib import Path

import numpy as np

from titans_jax.data.prepared import MANIFEST, VALID_TABLE, VALID_TEXT, Manifest
from titans_jax.data.shards import ShardWriter
from titans_jax.data.tokenizers import ByteTokenizer

START = 1


def numbered(*sizes: int, first: int = 2) -> list[np.ndarray]:
    """Documents without start tokens whose tokens are all different, so that a token says where it came from."""
    ends = first + np.cumsum(sizes)
    return [np.arange(e - n, e, dtype=np.int32) for n, e in zip(sizes, ends, strict=True)]


def write_prepared(
    folder: Path,
    shards: list[list[np.ndarray]],
    held_out: tuple[bytes, ...] = (b"held out",),
    vocab_size: int = 50_000,
) -> Path:
    """Writes documents (without start tokens) as a prepared folder of the byte tokenizer, and returns it."""
    folder.mkdir(parents=True, exist_ok=True)
    infos = []
    for number, documents in enumerate(shards):
        writer = ShardWriter(folder, f"tokens-{number:05d}", vocab_size, START)
        for document in documents:
            writer.add([(document, len(document))])
        info = writer.close()
        if info is not None:
            infos.append(info)
    (folder / VALID_TEXT).write_bytes(b"".join(held_out))
    table = [(len(text), zlib.crc32(text)) for text in held_out]
    np.save(folder / VALID_TABLE, np.array(table, np.int64).reshape(-1, 2))
    manifest = Manifest(
        tokenizer=ByteTokenizer().fingerprint(),
        vocab_size=vocab_size,
        start_token=START,
        counts={},
        irregular={},
        settings={},
        shards=tuple(infos),
        valid_documents=len(held_out),
        valid_bytes=sum(map(len, held_out)),
        valid_sha256=hashlib.sha256((folder / VALID_TABLE).read_bytes()).hexdigest(),
    )
    (folder / MANIFEST).write_text(manifest.to_json())
    return folder
