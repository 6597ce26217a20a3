"""Streaming inference: read texts of any length in fixed memory, generate, and keep what was read.

stream = prefill(model, tokens)                 # a list, an array, or an iterator longer than RAM
tokens, lengths, stream = generate(model, stream, 100, Sampling(temperature=0.8))
save_memory(stream, "book.safetensors", model)  # read once, keep, question later
"""

from titans_jax.inference.decode import Generated, generate, generate_tokens
from titans_jax.inference.memory_file import load_memory, memory_source, save_memory
from titans_jax.inference.pretrained import from_pretrained, save_pretrained
from titans_jax.inference.sampling import GREEDY, Sampling
from titans_jax.inference.stream import Stream, prefill, reset_memory, score, start_stream
from titans_jax.inference.text import continuation_text, file_tokens, generate_text

__all__ = [
    "GREEDY",
    "Generated",
    "Sampling",
    "Stream",
    "continuation_text",
    "file_tokens",
    "from_pretrained",
    "generate",
    "generate_text",
    "generate_tokens",
    "load_memory",
    "memory_source",
    "prefill",
    "reset_memory",
    "save_memory",
    "save_pretrained",
    "score",
    "start_stream",
]
