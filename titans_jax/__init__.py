"""Titans in JAX: neural long-term memory that learns at test time (Behrouz, Zhong, Mirrokni, 2025).

from titans_jax import Titans, preset

model = Titans(preset("tiny", variant="mac"), rngs=nnx.Rngs(0))
logits, state = model(tokens)           # tokens [B, T]; state continues the streams
"""

from titans_jax.config import MemoryConfig, RecurrenceConfig, TitansConfig
from titans_jax.memory.layer import NeuralMemory
from titans_jax.models.language_model import Titans
from titans_jax.presets import preset

__all__ = ["MemoryConfig", "NeuralMemory", "RecurrenceConfig", "Titans", "TitansConfig", "preset"]
