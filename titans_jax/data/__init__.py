"""Text to batches: sources, tokenizers, packing and the grain pipeline, and what a model must beat."""

from titans_jax.data.packing import Window
from titans_jax.data.pipeline import make_pipeline
from titans_jax.data.sources import Document, read_documents, split_documents
from titans_jax.data.tokenizers import (
    ByteTokenizer,
    HuggingFaceTokenizer,
    SentencePieceTokenizer,
    TokenizedText,
    Tokenizer,
    load_tokenizer,
    tokenize,
)
from titans_jax.data.yardsticks import lzma_bits_per_byte, order0_bits_per_byte

__all__ = [
    "ByteTokenizer",
    "Document",
    "HuggingFaceTokenizer",
    "SentencePieceTokenizer",
    "TokenizedText",
    "Tokenizer",
    "Window",
    "load_tokenizer",
    "lzma_bits_per_byte",
    "make_pipeline",
    "order0_bits_per_byte",
    "read_documents",
    "split_documents",
    "tokenize",
]
