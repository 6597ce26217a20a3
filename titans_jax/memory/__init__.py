"""The neural long-term memory: one rule, several executions, one entry point."""

from titans_jax.memory.api import memory_scan
from titans_jax.memory.diagnostics import Diagnostics
from titans_jax.memory.dual import Carry
from titans_jax.memory.gates import Gates
from titans_jax.memory.networks import MLPNetwork
from titans_jax.memory.rule import Rule
from titans_jax.memory.state import MemoryState, fresh_state

__all__ = [
    "Carry",
    "Diagnostics",
    "Gates",
    "MLPNetwork",
    "MemoryState",
    "Rule",
    "fresh_state",
    "memory_scan",
]
