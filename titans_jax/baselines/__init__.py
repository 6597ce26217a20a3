"""Recurrent baselines: each a small step function in its chunk-parallel form, run by one executor."""

from titans_jax.baselines.mixer import RecurrentMixer
from titans_jax.baselines.scan import chunk_scan

__all__ = ["RecurrentMixer", "chunk_scan"]
