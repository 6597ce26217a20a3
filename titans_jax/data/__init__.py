"""Text to batches: sources, tokenizers, prepared folders, packing and the pipeline, and what a model must beat."""

from titans_jax.data.nucleotides import NucleotideTokenizer
from titans_jax.data.packing import Window
from titans_jax.data.pipeline import make_mixture, make_pipeline
from titans_jax.data.prepared import Prepared, is_prepared, open_prepared
from titans_jax.data.sources import Document, find_files, read_documents, split_documents
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
    "NucleotideTokenizer",
    "Prepared",
    "SentencePieceTokenizer",
    "TokenizedText",
    "Tokenizer",
    "Window",
    "find_files",
    "is_prepared",
    "load_tokenizer",
    "lzma_bits_per_byte",
    "make_mixture",
    "make_pipeline",
    "open_prepared",
    "order0_bits_per_byte",
    "read_documents",
    "split_documents",
    "tokenize",
]
